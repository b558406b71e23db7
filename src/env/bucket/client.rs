//! Client: from a [`BucketSpec`] to a client of its cloud. Retries of the client are off: the adapter decides what may
//! be tried again, for only it knows which requests may have happened.

use crate::env::{BucketSpec, Cloud, StoreError, StoreErrorKind, is_plain_http_abroad};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut, S3CopyIfNotExists};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// One request, a part of [`PART_BYTES`](super::PART_BYTES) included, from connecting to the last byte of the answer.
const REQUEST_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What the adapter needs of a cloud.
pub(super) trait Client: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Client for T {}

pub(super) fn build(spec: &BucketSpec) -> Result<Arc<dyn Client>, StoreError> {
    let built = match spec.cloud {
        Cloud::S3 => s3(spec),
        Cloud::Google => google(spec),
        Cloud::Azure => azure(spec),
    };
    built.map_err(|error| StoreError {
        operation: "open",
        path: spec.to_string(),
        kind: StoreErrorKind::Other,
        source: std::io::Error::other(format!(
            "{error}; set it in the connection of this bucket or in the environment (docs/OBJECT_STORES.md)"
        )),
    })
}

fn limits() -> (ClientOptions, RetryConfig) {
    let options = ClientOptions::new().with_timeout(REQUEST_MAX).with_connect_timeout(CONNECT_MAX);
    (options, RetryConfig { max_retries: 0, retry_timeout: REQUEST_MAX, ..RetryConfig::default() })
}

fn s3(spec: &BucketSpec) -> object_store::Result<Arc<dyn Client>> {
    let (options, retry) = limits();
    let allow_http = AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp);
    let env = AmazonS3Builder::from_env();
    let allowed = env.get_config_value(&allow_http).unwrap_or_default();
    let mut builder = env.with_client_options(options).with_config(allow_http, allowed);
    for (name, value) in &spec.options {
        builder = builder.with_config(name.parse::<AmazonS3ConfigKey>()?, value);
    }
    warn_of_plain_http(spec, builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let built = builder
        .with_bucket_name(&spec.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(built))
}

fn google(spec: &BucketSpec) -> object_store::Result<Arc<dyn Client>> {
    let (mut options, retry) = limits();
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (name, value) in &spec.options {
        match name.as_str() {
            "endpoint" => {
                warn_of_plain_http(spec, Some(value.clone()));
                builder = builder.with_config(GoogleConfigKey::BaseUrl, value);
            }
            "allow_http" => options = options.with_allow_http(value == "true"),
            _ => builder = builder.with_config(name.parse::<GoogleConfigKey>()?, value),
        }
    }
    let built = builder.with_client_options(options).with_bucket_name(&spec.bucket).with_retry(retry).build()?;
    Ok(Arc::new(built))
}

fn azure(spec: &BucketSpec) -> object_store::Result<Arc<dyn Client>> {
    let (options, retry) = limits();
    let allow_http = AzureConfigKey::Client(object_store::ClientConfigKey::AllowHttp);
    let env = MicrosoftAzureBuilder::from_env();
    let allowed = env.get_config_value(&allow_http).unwrap_or_default();
    let mut builder = env.with_client_options(options).with_config(allow_http, allowed);
    for (name, value) in &spec.options {
        builder = builder.with_config(name.parse::<AzureConfigKey>()?, value);
    }
    warn_of_plain_http(spec, builder.get_config_value(&AzureConfigKey::Endpoint));
    let built = builder.with_container_name(&spec.bucket).with_retry(retry).build()?;
    Ok(Arc::new(built))
}

/// Whoever listens on the way can read and change what goes over plain HTTP; signatures only hide the key.
fn warn_of_plain_http(spec: &BucketSpec, endpoint: Option<String>) {
    if let Some(endpoint) = endpoint.filter(|endpoint| is_plain_http_abroad(endpoint)) {
        tracing::warn!(place = %spec, endpoint, "rows and state travel over PLAIN HTTP to this object store: use https");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Place;

    #[test]
    fn every_option_that_a_file_may_set_is_known_to_its_client() {
        for cloud in [Cloud::S3, Cloud::Google, Cloud::Azure] {
            for name in cloud.options() {
                let known = match cloud {
                    Cloud::S3 => name.parse::<AmazonS3ConfigKey>().map(drop),
                    Cloud::Google => name.parse::<GoogleConfigKey>().map(drop),
                    Cloud::Azure => name.parse::<AzureConfigKey>().map(drop),
                };
                assert!(known.is_ok(), "{cloud:?} {name}");
            }
        }
    }

    #[test]
    fn a_client_that_cannot_be_built_says_what_to_set() {
        let Place::Bucket(mut spec) = Place::parse("az://lake/x").unwrap() else { panic!() };
        spec.options.insert("account_key".into(), "no base64".into());
        spec.options.insert("account_name".into(), "a".into());
        let error = build(&spec).err().unwrap().to_string();
        assert!(error.contains("az://lake/x") && error.contains("OBJECT_STORES"), "{error}");
    }
}
