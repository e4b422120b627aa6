//! A layer that is only there to be tried.

use std::fs;

use super::staging::Staging;
use super::store::{Failed, Store, at};
use super::types::Layer;

/// A layer of one file, on the file system where the cache's layers lie. Removed when dropped; if the process dies first,
/// by the next one that opens the cache.
#[derive(Debug)]
pub struct TrialLayer {
    layer: Layer,
    _staging: Staging,
}

impl TrialLayer {
    pub(super) fn new(store: &Store) -> Result<Self, Failed> {
        let path = store.staging();
        let staging = Staging::new(&path).map_err(at("make a directory in", &path))?;
        let file = staging.path().join("trial");
        fs::write(&file, "trial\n").map_err(at("write", &file))?;
        let layer = Layer {
            name: "trial".to_owned(),
            digest: "sha256:trial".to_owned(),
            dir: staging.path().to_owned(),
            bytes: 6,
            entries: 1,
        };
        Ok(Self { layer, _staging: staging })
    }

    /// The layer.
    #[must_use]
    pub fn layer(&self) -> &Layer {
        &self.layer
    }
}
