//! Every phase of fetching an image is a span that a node's log can show.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Notes the names of spans.
struct Names(Arc<Mutex<Vec<&'static str>>>, AtomicU64);

impl Subscriber for Names {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("native_images")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut names = self.0.lock().unwrap();
        assert!(span.metadata().fields().field("image").is_some());
        names.push(span.metadata().name());
        Id::from_u64(self.1.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn phases_are_spans() {
    let names = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::set_global_default(Names(Arc::clone(&names), AtomicU64::new(0))).unwrap();
    let server = Server::file(xz(&bait(&usual()))).await;
    let temp = tempdir();
    open(temp.path(), policy()).ensure(&image(&server.url("/a"), None), &none()).await.unwrap();
    assert_eq!(*names.lock().unwrap(), ["connect", "unpack", "download", "verify", "publish"]);
}
