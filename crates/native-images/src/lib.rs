//! Fetch, verify, unpack and cache image archives, for any driver that starts from files.
//!
//! One pass does it: bytes come from the network, are hashed, decoded, untarred and written while they come, and the
//! result appears in the cache only when digest, length and the archive's end were proven. Any number of tasks and
//! processes may want the same image; one of them downloads it.
//!
//! What it does not do: it never needs root, starts no program, places nothing into an environment (except
//! [`unpack_over`], as the calling user) and knows nothing of labels or drivers.
//!
//! ```no_run
//! use native_images::{Event, Events, ImageRef, Images, Layout, Policy};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let images = Images::open("/var/lib/driver/images".as_ref(), Policy::default())?;
//! let image = ImageRef {
//!     url: "https://images.example/lin-ci/lin-ci-20230210.190425_ff1cd1cf.tar.xz".parse()?,
//!     sum: Some(format!("sha256:{}", "9f".repeat(32)).parse()?),
//!     name: "lin-ci".into(),
//!     version: "20230210.190425_ff1cd1cf".into(),
//!     layout: Layout::Auto,
//! };
//! let progress = Events::new(|event| {
//!     if let Event::Progress { bytes, total, .. } = event {
//!         tracing::info!(bytes, total, "downloading");
//!     }
//! });
//! let handle = images.ensure(&image, &progress).await?; // holds the image against pruning while it lives
//! for layer in handle.layers() {
//!     // Mount or copy it: a complete read-only tree that never changes any more.
//!     tracing::info!(layer = %layer.name, dir = %layer.dir.display(), "ready");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Rules that hold
//! - Nothing is created, changed, followed or linked outside the target, whatever an archive holds.
//! - A label with a sum is never served bytes that were not checked against it. The one exception is what the operator
//!   placed in the cache by hand ([`Images::ensure`]), and that is said in a warning.
//! - A layer's tree is complete, on the disk and never changed once it has its name.
//! - Dropping the future of [`Images::ensure`] stops the work and leaves nothing half made.

mod archive;
mod cache;
mod decode;
mod digest;
mod error;
mod events;
mod image;
mod pack;
mod pipeline;
mod place;
mod policy;
mod transport;

pub use archive::{ArchiveError, Refusal};
pub use cache::{
    CachedImage, Hold, ImageHandle, Images, Layer, Problem, PruneOptions, PruneReport, Source, TrialLayer, VerifyReport,
};
pub use error::{CacheError, EnsureError, OpenError, PackError, PlaceError};
pub use events::{Event, Events, Phase};
pub use image::{Algo, Checksum, ImageRef, Layout, ParseChecksumError};
pub use pack::{PackOptions, Packed, pack};
pub use place::{Placed, unpack_over};
pub use policy::{Credentials, Limits, Origin, ParseOriginError, Policy};
pub use transport::{FetchError, RedirectRefusal, Sent, Stage};
