//! How this host fetches images, for the commands that work on the cache without an environment.

use std::fs;

use native_config::{DriverConfig, Image, SumAlgo};
use native_images::{Algo, Checksum, Credentials, ImageRef, Layout, Policy};

use crate::exit::Exit;
use crate::failure::Failure;

/// The policy of a configuration.
///
/// # Errors
/// When an origin or the certificates can't be used.
pub(crate) fn of(config: &DriverConfig) -> Result<Policy, Failure> {
    let wrong = |key: &str| Failure::new(Exit::Usage, "config", key.to_owned());
    let origins = config.download_origins.iter().map(|origin| origin.to_string().parse());
    let certificates = config.download_ca.iter().map(fs::read);
    Ok(Policy {
        credentials: config
            .download_user
            .clone()
            .map(|user| Credentials { user, password: config.download_password.clone().unwrap_or_default() }),
        origins: origins
            .collect::<Result<_, _>>()
            .map_err(|e: native_images::ParseOriginError| wrong("download_origins").because_of(&e))?,
        proxy: config.download_proxy.as_ref().map(|proxy| proxy.expose().clone()),
        extra_ca: certificates.collect::<Result<_, _>>().map_err(|e| wrong("download_ca").because_of(&e))?,
        max_size: config.images_max_size,
        ..Policy::default()
    })
}

/// An image of a label as the cache knows it.
pub(crate) fn image(image: &Image) -> ImageRef {
    let sum = image.sum.as_ref().map(|sum| {
        let algo = match sum.algo {
            SumAlgo::Md5 => Algo::Md5,
            SumAlgo::Sha1 => Algo::Sha1,
            SumAlgo::Sha256 => Algo::Sha256,
            SumAlgo::Sha512 => Algo::Sha512,
        };
        Checksum { algo, digest: sum.digest.clone() }
    });
    ImageRef {
        url: image.url.clone(),
        sum,
        name: image.name.to_string(),
        version: image.version.to_string(),
        layout: Layout::Auto,
    }
}
