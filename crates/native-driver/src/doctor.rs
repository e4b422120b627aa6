//! What `doctor` and a node's start look at: rights, tools, directories, and a whole round trip.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use native_config::{Definition, EnvironmentId, Image, Lifetime, Metadata, Resources, Template};
use native_platform::Check;

use crate::driver::AllocateRequest;
use crate::error::{Explain, PrepareError};
use crate::images::Trial;
use crate::node::{Node, blocking};
use crate::operation::describe;
use crate::plan::GB;
use crate::progress::Watch;
use crate::report::{Allocated, Verified};
use crate::store::LOG;
use crate::{allocate, deallocate, observe};

/// What the round trip runs as the user. On every system that this driver knows.
const PROGRAM: &str = "/usr/bin/id";
/// The check that tells how layers are put into environments.
const LAYERS: &str = "layers";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn good(id: &str, detail: String) -> Check {
    Check { id: id.to_owned(), ok: true, detail, fix: String::new() }
}

fn bad(id: &str, detail: String, fix: String) -> Check {
    Check { id: id.to_owned(), ok: false, detail, fix }
}

/// Everything that can be looked at without making anything. Blocking.
pub(crate) fn checks(node: &Node) -> Result<Vec<Check>, PrepareError> {
    let facts = node.platform.facts()?;
    let ram_gb = u32::try_from(facts.memory_bytes / GB).unwrap_or(u32::MAX);
    node.config
        .check_alter(facts.cpus, ram_gb)
        .map_err(|e| PrepareError::Config { key: e.key, message: e.to_string() })?;
    let mut checks = node.platform.checks()?;
    checks.push(workspace(node));
    Ok(checks)
}

/// Whether journals can be written durably.
fn workspace(node: &Node) -> Check {
    // Without a name: another process may look at the same time.
    let tried = tempfile::tempfile_in(&node.workspace).and_then(|file| file.sync_all());
    let free = node.store.free_bytes().map_or(0, |b| b / GB);
    match tried {
        Ok(()) => good("workspace", format!("{} is writable, {free} GB free", node.workspace.display())),
        Err(error) => bad(
            "workspace",
            format!("{} can't be written: {error}", node.workspace.display()),
            "free some space, or set `workspace_path` to a directory that this user may write".to_owned(),
        ),
    }
}

/// Checks, and the round trip if they allow it.
pub(crate) async fn verify(node: &Arc<Node>, watch: &Watch) -> Result<Verified, PrepareError> {
    let task = Arc::clone(node);
    let bug = |e| native_platform::StepError::failed(native_platform::StepKind::Platform, e);
    let mut found = blocking(move || checks(&task)).await.map_err(bug)??;
    if found.iter().all(|c| c.ok) {
        found.extend(round_trip(node, watch).await);
    } else {
        let fix = "make the other checks pass first".to_owned();
        found.push(bad("round-trip", "not tried".to_owned(), fix));
    }
    Ok(found.into())
}

/// A user, small disks, a layer in the home, `id` run as the user, all of it removed again and audited. Tells also how the
/// layer came into the home.
pub(crate) async fn round_trip(node: &Arc<Node>, watch: &Watch) -> Vec<Check> {
    let mut node = Node { probe: true, ..Node::clone(node) };
    let images = match node.images.trial_layer() {
        Ok(Some(layer)) => {
            node.images = Arc::new(Trial(layer));
            trial_image().into_iter().collect()
        }
        Ok(None) => Vec::new(),
        Err(error) => {
            let fix = "free some space, or set `images_path` to a directory that this user may write".to_owned();
            return vec![bad(LAYERS, describe(&error), fix)];
        }
    };
    let (mut checks, node) = (Vec::new(), Arc::new(node));
    let trip = whole_life(&node, images, watch, &mut checks).await;
    checks.push(trip);
    checks
}

/// Whose layer the trial is: it is never fetched.
fn trial_image() -> Option<Image> {
    Some(Image {
        url: "https://localhost/trial-1.tar.xz".parse().ok()?,
        sum: None,
        name: "trial".parse().ok()?,
        version: "1".parse().ok()?,
        tag: None,
    })
}

/// By what way layers came into this environment.
fn way_of_layers(node: &Node, id: &EnvironmentId) -> Option<Check> {
    let journal = node.journal(id).ok()??;
    let (_, method, why) = journal.layer_methods().next()?;
    let detail = match why {
        None => format!("images are put into environments by {method}"),
        Some(why) => format!("images are put into environments by {method}, not in the quickest way: {why}"),
    };
    Some(good(LAYERS, detail))
}

async fn whole_life(node: &Arc<Node>, images: Vec<Image>, watch: &Watch, checks: &mut Vec<Check>) -> Check {
    const ID: &str = "round-trip";
    let failed = |error: &dyn Explain, what: &str| {
        bad(ID, format!("{what}: {}", describe(error)), error.hint().unwrap_or_default())
    };
    let entry = match Template::parse(PROGRAM) {
        Ok(entry) => entry,
        Err(error) => return bad(ID, describe(&error), String::new()),
    };
    let definition = Definition {
        driver: node.name.to_string(),
        images,
        entry,
        groups: Vec::new(),
        resources: Resources { lifetime: Lifetime::For(PATIENCE), multitenancy: true, ..Resources::default() },
    };
    let request = AllocateRequest {
        definition,
        metadata: Metadata::default(),
        label_metadata: Metadata::default(),
        lifetime: None,
    };
    let quiet = Watch::new(watch.cancel().clone(), |_| {});
    let made = match allocate::allocate(Arc::clone(node), request, quiet.clone()).await {
        Ok(made) => made,
        Err(error) => return failed(&error, "make an environment"),
    };
    let id = made.identifier.clone();
    checks.extend(way_of_layers(node, &id));
    let ran = run_to_its_end(node, &made).await;
    // The watch may be cancelled by now; what was made is removed all the same.
    match deallocate::deallocate(Arc::clone(node), id, Watch::quiet()).await {
        Err(error) => failed(&error, "remove the environment"),
        Ok(gone) => match ran {
            Err(detail) => bad(ID, detail, "`fish-native run` with -v shows more".to_owned()),
            Ok(said) => {
                let t = (made.timings_ms.total, gone.timings_ms);
                let removed = t.1.stop + t.1.revert + t.1.audit;
                good(ID, format!("{said}; made in {} ms, removed and audited in {removed} ms", t.0))
            }
        },
    }
}

async fn run_to_its_end(node: &Arc<Node>, made: &Allocated) -> Result<String, String> {
    let id: EnvironmentId = made.identifier.clone();
    let wait = observe::wait(Arc::clone(node), id.clone(), tokio_util::sync::CancellationToken::new());
    let exit = tokio::time::timeout(PATIENCE, wait).await;
    let exit = exit.map_err(|_| format!("{PROGRAM} did not end within {PATIENCE:?}"))?.map_err(|e| describe(&e))?;
    let path = node.store.dir(&id).join(LOG);
    let log = fs::read(&path).map_err(|e| format!("can't read the log {}: {e}", path.display()))?;
    let log = String::from_utf8_lossy(&log);
    let said = log.lines().next().unwrap_or_default().trim().to_owned();
    if exit.code != 0 {
        return Err(format!("{PROGRAM} ended with {}: {said}", exit.code));
    }
    if said.contains(&format!("uid={}", made.uid)) {
        Ok(said)
    } else {
        Err(format!("{PROGRAM} was to run with uid {} and says {said:?}", made.uid))
    }
}
