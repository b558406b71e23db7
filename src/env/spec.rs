//! Place: where objects lie, as a pipeline file names it: a folder, or a prefix of a bucket in an object store.
//!
//!   out/state   s3://bucket/prefix   gs://bucket/prefix   az://container/prefix
//!
//! Holds: a parsed place has a bucket name and a prefix without empty, `.` or `..` parts; options never show in `Debug`.
//! Does not: touch the environment or the network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Bucket(BucketSpec),
}

#[derive(Clone, PartialEq, Eq)]
pub struct BucketSpec {
    pub cloud: Cloud,
    /// The bucket, or the container of Azure.
    pub bucket: String,
    /// Without a slash at either end; empty for the whole bucket.
    pub prefix: String,
    /// What the pipeline file says; what it does not say comes from the usual environment variables.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cloud {
    S3,
    Google,
    Azure,
}

/// Every scheme with what it means.
const SCHEMES: [(&str, Cloud); 3] = [("s3", Cloud::S3), ("gs", Cloud::Google), ("az", Cloud::Azure)];

impl Cloud {
    pub fn scheme(self) -> &'static str {
        SCHEMES.iter().find(|(_, cloud)| *cloud == self).expect("every cloud has a scheme").0
    }

    /// The options that a pipeline file may set, by the names of the client library.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Cloud::S3 => &[
                "access_key_id",
                "secret_access_key",
                "session_token",
                "region",
                "virtual_hosted_style_request",
                "server_side_encryption",
                "sse_kms_key_id",
                "request_payer",
                "skip_signature",
                "unsigned_payload",
            ],
            Cloud::Google => &["service_account_path", "service_account_key", "skip_signature"],
            Cloud::Azure => &[
                "account_name",
                "account_key",
                "sas_key",
                "client_id",
                "client_secret",
                "tenant_id",
                "federated_token_file",
                "use_azure_cli",
                "use_emulator",
                "skip_signature",
            ],
        }
    }
}

impl Place {
    /// Reads what stands in a pipeline file; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Place, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err("an empty path".into()) } else { Ok(Place::Folder(text.into())) };
        };
        let Some((_, cloud)) = SCHEMES.iter().find(|(known, _)| *known == scheme) else {
            return Err(format!("`{scheme}://`, which is no object store that Conjoin knows"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("`{text}`, which names no bucket"));
        }
        let wrong = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
        if let Some(c) = bucket.chars().find(|c| wrong(*c)) {
            return Err(format!("`{c}` in the name of the bucket `{bucket}`"));
        }
        let prefix = prefix.trim_end_matches('/');
        let fine = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.contains(|c| wrong(c) && !"=+@,!".contains(c))
        };
        if !prefix.is_empty() && !prefix.split('/').all(fine) {
            return Err(format!(
                "the prefix `{prefix}`: its parts are letters, digits and -_.=+@,! and none is empty, `.` or `..`"
            ));
        }
        let options = BTreeMap::new();
        Ok(Place::Bucket(BucketSpec { cloud: *cloud, bucket: bucket.into(), prefix: prefix.into(), options }))
    }

    /// A place below this one.
    pub fn join(&self, name: &str) -> Place {
        match self {
            Place::Folder(folder) => Place::Folder(folder.join(name)),
            Place::Bucket(spec) => Place::Bucket(BucketSpec { prefix: spec.path_of(name), ..spec.clone() }),
        }
    }

    /// A sibling, whose name is this one's with more behind it. `None` where there is no name: a root, or a whole bucket.
    pub fn beside(&self, more: &str) -> Option<Place> {
        match self {
            Place::Folder(folder) => {
                let mut name = folder.file_name()?.to_os_string();
                name.push(more);
                Some(Place::Folder(folder.with_file_name(name)))
            }
            Place::Bucket(spec) if spec.prefix.is_empty() => None,
            Place::Bucket(spec) => {
                Some(Place::Bucket(BucketSpec { prefix: format!("{}{more}", spec.prefix), ..spec.clone() }))
            }
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Place::Folder(folder) => Some(folder),
            Place::Bucket(_) => None,
        }
    }
}

impl BucketSpec {
    /// The whole key of an object of this place.
    pub fn path_of(&self, path: &str) -> String {
        match (self.prefix.is_empty(), path.is_empty()) {
            (true, _) => path.into(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}/{path}", self.prefix),
        }
    }

    /// Whether everything of `other` is part of this place.
    pub fn holds(&self, other: &BucketSpec) -> bool {
        let below = other.prefix.strip_prefix(&self.prefix);
        (self.cloud, &self.bucket) == (other.cloud, &other.bucket)
            && below.is_some_and(|rest| self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for BucketSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.cloud.scheme(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl fmt::Debug for BucketSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} with {:?}", self.options.keys().collect::<Vec<_>>())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(folder) => write!(f, "{}", folder.display()),
            Place::Bucket(spec) => write!(f, "{spec}"),
        }
    }
}

/// Whether an endpoint is reached without encryption, on another machine.
pub fn is_plain_http_abroad(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host != "localhost" && !host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A folder.
impl From<&str> for Place {
    fn from(folder: &str) -> Place {
        Place::Folder(folder.into())
    }
}

impl From<PathBuf> for Place {
    fn from(folder: PathBuf) -> Place {
        Place::Folder(folder)
    }
}

impl From<&Path> for Place {
    fn from(folder: &Path) -> Place {
        Place::Folder(folder.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(text: &str) -> BucketSpec {
        match Place::parse(text).unwrap() {
            Place::Bucket(spec) => spec,
            Place::Folder(folder) => panic!("a folder: {folder:?}"),
        }
    }

    #[test]
    fn a_place_is_a_folder_or_a_prefix_of_a_bucket() {
        assert_eq!(Place::parse("out/state"), Ok("out/state".into()));
        let spec = bucket("s3://lake/conjoin/ctr/");
        assert_eq!((spec.cloud, spec.bucket.as_str(), spec.prefix.as_str()), (Cloud::S3, "lake", "conjoin/ctr"));
        assert_eq!(Place::Bucket(spec).join("dead-letters").to_string(), "s3://lake/conjoin/ctr/dead-letters");
        assert_eq!(bucket("gs://lake").path_of("a/b"), "a/b");
        assert_eq!(bucket("az://lake/x").path_of(""), "x");
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "an empty path"),
            ("hdfs://x/y", "`hdfs://`"),
            ("s3:///y", "no bucket"),
            ("s3://la ke/y", "` ` in the name"),
            ("s3://lake/a//b", "the prefix"),
            ("s3://lake/../b", "the prefix"),
            ("s3://lake/a?b", "the prefix"),
        ] {
            let found = Place::parse(text).unwrap_err();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }

    #[test]
    fn a_place_holds_what_lies_below_it() {
        assert!(bucket("s3://lake").holds(&bucket("s3://lake/a/b")));
        assert!(bucket("s3://lake/a").holds(&bucket("s3://lake/a/b")));
        assert!(bucket("s3://lake/a").holds(&bucket("s3://lake/a")));
        assert!(!bucket("s3://lake/a").holds(&bucket("s3://lake/ab")));
        assert!(!bucket("s3://lake").holds(&bucket("gs://lake/a")));
    }

    #[test]
    fn plain_http_is_fine_on_this_machine_alone() {
        for fine in ["http://127.0.0.1:9000", "http://localhost/x", "http://[::1]:9000", "https://minio:9000"] {
            assert!(!is_plain_http_abroad(fine), "{fine}");
        }
        for abroad in
            ["http://10.0.0.1:9000", "http://localhost.example.org", "http://[2001:db8::1]:9000", "http://minio"]
        {
            assert!(is_plain_http_abroad(abroad), "{abroad}");
        }
    }

    #[test]
    fn f16_options_are_named_but_never_shown() {
        let mut spec = bucket("s3://lake/a");
        spec.options.insert("secret_access_key".into(), "hunter2".into());
        let text = format!("{:?} {}", Place::Bucket(spec.clone()), spec);
        assert!(text.contains("secret_access_key") && !text.contains("hunter2"), "{text}");
    }
}
