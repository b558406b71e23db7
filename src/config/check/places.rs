//! Places: folders and buckets, and the connections that say how a bucket is reached.

use super::Checker;
use crate::config::diagnostic::suggestion;
use crate::config::raw::{Bucket, Connection, Pipeline};
use crate::config::tree::Path;
use crate::env::{BucketSpec, Place, is_plain_http_abroad};
use std::collections::BTreeMap;

const EXPECTED: &str = "a folder, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";

/// The place that a path names, with what the connection of its bucket says.
pub fn place(c: &mut Checker<'_>, raw: &Pipeline, text: &str, at: &Path) -> Option<Place> {
    if c.is_cut(at) {
        return None;
    }
    match Place::parse(text) {
        Ok(Place::Bucket(spec)) => {
            let options = options_for(raw, &spec);
            Some(Place::Bucket(BucketSpec { options, ..spec }))
        }
        Ok(place) => Some(place),
        Err(found) => {
            c.error(at, found).expected(EXPECTED);
            None
        }
    }
}

/// Of the connections that hold the place, the one with the longest prefix.
fn options_for(raw: &Pipeline, place: &BucketSpec) -> BTreeMap<String, String> {
    let buckets = raw.connections.iter().filter_map(|(_, connection)| connection.bucket.as_ref());
    let holding = buckets.filter_map(|bucket| match Place::parse(&bucket.url) {
        Ok(Place::Bucket(spec)) if spec.holds(place) => Some((spec.prefix.len(), bucket)),
        _ => None,
    });
    holding.max_by_key(|(length, _)| *length).map(|(_, bucket)| options_of(bucket)).unwrap_or_default()
}

fn options_of(bucket: &Bucket) -> BTreeMap<String, String> {
    let mut options: BTreeMap<String, String> =
        bucket.options.iter().map(|(name, value)| (name.to_string(), value.text())).collect();
    if let Some(endpoint) = &bucket.endpoint {
        options.insert("endpoint".into(), endpoint.clone());
    }
    if let Some(allow) = bucket.allow_http {
        options.insert("allow_http".into(), allow.to_string());
    }
    options
}

/// A connection of kind `bucket`.
pub fn bucket(c: &mut Checker<'_>, connection: &Connection, path: &Path) {
    let Some(bucket) = &connection.bucket else { return };
    let at = path.key("url");
    let spec = match Place::parse(&bucket.url) {
        Ok(Place::Bucket(spec)) => Some(spec),
        Ok(Place::Folder(_)) => {
            c.error(&at, format!("`{}`, a folder", bucket.url)).expected("s3://bucket, gs://bucket or az://container");
            None
        }
        Err(found) => {
            if !c.is_cut(&at) {
                c.error(&at, found).expected("s3://bucket, gs://bucket or az://container");
            }
            None
        }
    };
    if let Some(endpoint) = &bucket.endpoint {
        let at = path.key("endpoint");
        match endpoint.split_once("://") {
            Some(("https", rest)) if !rest.is_empty() => {}
            Some(("http", rest)) if !rest.is_empty() => {
                if bucket.allow_http != Some(true) {
                    c.error(&at, format!("`{endpoint}`, which is not encrypted"))
                        .expected("https://…")
                        .help("on a network that you trust, say `allow_http: true` beside it");
                } else if is_plain_http_abroad(endpoint) {
                    c.warn(&at, format!("rows and state travel over PLAIN HTTP to `{endpoint}`"))
                        .help("whoever listens on the way can read and change them: use https");
                }
            }
            _ if c.is_cut(&at) => {}
            _ => {
                c.error(&at, format!("`{endpoint}`")).expected("https://host or https://host:port");
            }
        }
    }
    let Some(spec) = spec else { return };
    let known = spec.cloud.options();
    for name in bucket.options.names() {
        if !known.contains(&name) {
            let help = suggestion(name, known.to_vec()).unwrap_or_else(|| format!("known are {}", known.join(", ")));
            let scheme = spec.cloud.scheme();
            c.error(&path.key("options").key(name), format!("unknown option `{name}` of {scheme}://")).help(help);
        }
    }
}
