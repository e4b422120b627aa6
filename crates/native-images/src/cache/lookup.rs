//! When the cache serves an image: by its sum, as another's twin, or because the server says that it has not changed.

use super::fetch::{Request, stamp};
use super::store::{Key, Record};
use super::types::ImageHandle;
use crate::error::EnsureError;
use crate::events::Phase;
use crate::image::bare;
use crate::transport::{Download, Started};

impl Request<'_> {
    /// With a sum, what has that sum; that is all there is to check.
    pub(super) fn cached(&self, key: &Key) -> Result<Option<ImageHandle>, EnsureError> {
        let Some(sum) = &self.image.sum else { return Ok(None) };
        if let Some(record) = self.cache.store.record(key).map_err(Self::cache_error)?
            && record.matches(sum)
        {
            return self.handle(key, &record, true);
        }
        Ok(None)
    }

    /// The same archive under another name, url or algorithm: its layers serve this image too.
    pub(super) fn twin(&self, key: &Key) -> Result<Option<ImageHandle>, EnsureError> {
        let Some(sum) = &self.image.sum else { return Ok(None) };
        for (other, record) in self.cache.store.records().map_err(Self::cache_error)? {
            let same_names = record.name == self.image.name || self.image.layout != crate::image::Layout::Bait;
            let fits = other != *key && record.matches(sum) && record.layout == self.image.layout && same_names;
            if !fits {
                continue;
            }
            let record = Record {
                stamp: stamp(),
                name: self.image.name.clone(),
                version: self.image.version.clone(),
                url: Some(bare(&self.image.url).to_string()),
                ..record
            };
            if let Some(handle) = self.handle(key, &record, true)? {
                self.cache.store.write_record(key, &record).map_err(Self::cache_error)?;
                return Ok(Some(handle));
            }
        }
        Ok(None)
    }

    /// Without a sum, what the server says it has not changed since. When the server can not be asked, what is here
    /// serves, with a warning: an image once had is better than none.
    pub(super) async fn unchanged(&self, key: &Key) -> Result<Option<ImageHandle>, EnsureError> {
        if self.image.sum.is_some() {
            return Ok(None);
        }
        let Some(record) = self.cache.store.record(key).map_err(Self::cache_error)? else { return Ok(None) };
        let Some(handle) = self.handle(key, &record, false)? else { return Ok(None) };
        if !record.validators.usable() {
            return Ok(None);
        }
        self.events.phase(&self.id, Phase::Connect);
        let mut download = Download::new(self.job());
        match download.start(Some(&record.validators)).await {
            Ok(Started::NotModified) => {}
            Ok(Started::Body) => return Ok(None),
            Err(error) if error.is_outage() => {
                let why = format!(
                    "the server could not be asked whether the image changed ({error}); the cached one is used"
                );
                self.events.warn(&self.id, why);
            }
            Err(source) => return Err(self.fetch_error(source)),
        }
        self.cache.store.touch(key);
        self.tell_cached(&handle);
        Ok(Some(handle))
    }
}
