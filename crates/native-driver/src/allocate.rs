//! Allocation: claim, make, commit; and back again when anything fails.
//!
//! The account and the volumes are made while the images come in. Whatever fails first stops the other.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use native_config::EnvironmentId;
use native_platform::{LayerSource, Step};
use tokio_util::sync::CancellationToken;

use crate::driver::AllocateRequest;
use crate::error::{AllocateCause, AllocateError, CapacityError, CleanupError, JournalError, PlanError};
use crate::images::{Fetched, fetch_all};
use crate::journal::{Journal, JournalPhase, Record, State, VERSION};
use crate::node::{Node, blocking};
use crate::operation::Operation;
use crate::plan::{self, Layout};
use crate::progress::{Phase, Progress, Watch, millis};
use crate::recover;
use crate::report::{AllocateTimings, Allocated};
use crate::store::{Held, WorkspaceLock};

/// An environment that has its name and its journal, and nothing else.
struct Claimed {
    operation: Operation,
    layout: Layout,
    steps: Vec<Step>,
}

/// Makes an environment. Runs to its end even if nobody waits.
pub(crate) async fn allocate(
    node: Arc<Node>,
    request: AllocateRequest,
    watch: Watch,
) -> Result<Allocated, AllocateError> {
    let since = Instant::now();
    let request = Arc::new(request);
    let claimed = {
        let (node, request, watch) = (Arc::clone(&node), Arc::clone(&request), watch.clone());
        blocking(move || claim(&node, &request, &watch)).await
    };
    let Claimed { operation, layout, steps } = claimed.map_err(AllocateCause::Bug)??;
    let id = layout.id.clone();
    watch.emit(Progress::Claimed(id.clone()));
    let (cause, operation) = match make(&node, operation, steps, &request, &watch).await {
        Ok((mut timings, operation)) => {
            timings.total = millis(since.elapsed());
            let uid = operation.journal.as_ref().and_then(|j| j.uid).unwrap_or_default();
            return Ok(Allocated {
                user: id.to_string(),
                identifier: id,
                uid,
                home: layout.home,
                disks: layout.disks,
                timings_ms: timings,
            });
        }
        Err(failed) => *failed,
    };
    let cleanup = clean_up(&node, &id, operation, &watch).await;
    Err(AllocateError { identifier: Some(id), cause, cleanup: cleanup.err() })
}

/// Takes away what a failed allocation made. Not cancelled by anything.
async fn clean_up(
    node: &Arc<Node>,
    id: &EnvironmentId,
    operation: Option<Operation>,
    watch: &Watch,
) -> Result<(), CleanupError> {
    let (node, id, watch) = (Arc::clone(node), id.clone(), watch.clone());
    let done = {
        let id = id.clone();
        blocking(move || match operation {
            Some(operation) => operation.teardown(&watch).map(drop),
            // A thread of ours panicked and took the operation with it; its journal is on disk.
            None => recover::one(&node, &id, &watch),
        })
        .await
    };
    done.unwrap_or_else(|bug| {
        Err(CleanupError { identifier: id, stuck: Vec::new(), leaked: Vec::new(), other: vec![bug] })
    })
}

/// Checks that there is room and takes it, so that no other process can think it is still free.
#[expect(clippy::disallowed_methods, reason = "for people: nothing is decided by it")]
fn claim(node: &Arc<Node>, request: &AllocateRequest, watch: &Watch) -> Result<Claimed, AllocateCause> {
    let definition = &request.definition;
    let warnings = plan::validate(definition, Some(&node.config)).map_err(PlanError::from)?;
    warnings.into_iter().for_each(|w| watch.emit(Progress::Warning(w)));
    let lock = node.lock_workspace(watch.cancel())?.ok_or(AllocateCause::Cancelled)?;
    if !node.probe
        && let Some(full) = crate::capacity::why_not_one(node, definition)?
    {
        return Err(AllocateCause::DoesNotFit(full));
    }
    let held = new_identifier(node, &lock)?;
    let layout = node.layout(&held.id, definition);
    let planned = layout.map_err(PlanError::from).and_then(|layout| {
        let mut steps = plan::plan(request, &node.config, &layout)?;
        if node.probe {
            plan::shrink(&mut steps);
        }
        Ok((layout, steps))
    });
    let (layout, steps) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            node.store.remove(held)?;
            return Err(error.into());
        }
    };
    let mut grant = plan::grant(definition, &node.config, &layout.clone_bytes);
    if node.probe {
        // It is gone in a second and keeps nobody from anything.
        grant = crate::report::Grant { multitenancy: true, ..Default::default() };
    }
    let journal = Journal {
        version: VERSION,
        id: held.id.clone(),
        instance: node.name.clone(),
        created: Timestamp::now().to_string(),
        phase: JournalPhase::Allocating,
        grant,
        isolation: node.config.isolation,
        uids: (node.config.uid_min, node.config.uid_max),
        uid: None,
        home: layout.home.clone(),
        disks: layout.disks.clone(),
        layer_dirs: Vec::new(),
        steps: steps.iter().map(|s| Record { step: s.for_journal(), state: State::Planned }).collect(),
        leaked: Vec::new(),
    };
    let operation = node.operation(held, Some(journal), None);
    if let Err(error) = operation.note() {
        // The claim is a directory with a lock in it; if it can't be removed either, the next start does it.
        drop(node.store.remove(operation.held));
        return Err(error.into());
    }
    Ok(Claimed { operation, layout, steps })
}

/// A name that nobody has, claimed.
fn new_identifier(node: &Node, lock: &WorkspaceLock) -> Result<Held, AllocateCause> {
    // 26^6 names: even with 10,000 of them taken, a hundred misses in a row do not happen.
    for _ in 0..100 {
        let id = random_identifier().map_err(AllocateCause::Bug)?;
        // Our own directories have that name, which looks like an environment's.
        if id.as_str() == "fish-native" {
            continue;
        }
        if let Some(held) = node.store.claim(lock, &id)? {
            return Ok(held);
        }
    }
    Err(AllocateCause::Bug("a hundred random identifiers were all taken".to_owned()))
}

fn random_identifier() -> Result<EnvironmentId, String> {
    let mut name = String::from("fish-");
    while name.len() < 11 {
        let mut byte = [0];
        getrandom::fill(&mut byte).map_err(|e| format!("no random numbers: {e}"))?;
        // 234 is the largest multiple of 26 in a byte: above it, some letters would be likelier than others.
        if byte[0] < 234 {
            name.push(char::from(b'a' + byte[0] % 26));
        }
    }
    name.parse().map_err(|e: native_config::NameError| e.to_string())
}

type Failed = Box<(AllocateCause, Option<Operation>)>;

/// Everything from the first effect to the commit.
async fn make(
    node: &Arc<Node>,
    mut operation: Operation,
    mut steps: Vec<Step>,
    request: &AllocateRequest,
    watch: &Watch,
) -> Result<(AllocateTimings, Operation), Failed> {
    let mut timings = AllocateTimings::default();
    let stop = watch.cancel().child_token();

    let first = {
        let (steps, stop, watch) = (steps.clone(), stop.clone(), watch.clone());
        blocking(move || {
            let made = begin(&mut operation, &steps, &stop, &watch);
            if made.is_err() {
                stop.cancel();
            }
            (operation, made)
        })
    };
    let images = fetch(node, request, watch, &stop);
    let (first, images) = tokio::join!(first, images);
    let (mut operation, made) = first.map_err(|bug| Box::new((AllocateCause::Bug(bug), None)))?;
    let (fetched, ms) = match (made, images) {
        (Ok((account, volumes)), Ok(images)) => {
            (timings.account, timings.volumes) = (account, volumes);
            images
        }
        // Of two errors, the one that is not the echo of the other. A cancelled watch is always the reason.
        (made, images) => {
            let mut errors = [made.err(), images.err()].into_iter().flatten();
            let real = errors.find(|e| !matches!(e, AllocateCause::Cancelled));
            let cause = real.filter(|_| !watch.cancel().is_cancelled()).unwrap_or(AllocateCause::Cancelled);
            operation.stop_here();
            return Err(Box::new((cause, Some(operation))));
        }
    };
    timings.images = ms;

    let sources: Vec<Vec<LayerSource>> = request
        .definition
        .images
        .iter()
        .zip(&fetched)
        .map(|(image, fetched)| {
            let source = |l: &native_images::Layer| LayerSource {
                image: plan::image_id(image),
                digest: l.digest.clone(),
                dir: l.dir.clone(),
            };
            fetched.layers.iter().map(source).collect()
        })
        .collect();
    plan::fill_layers(&mut steps, &request.definition, &sources);
    operation.note_layers(&steps);
    let images = Arc::clone(&node.images);
    let watch = watch.clone();
    let second = blocking(move || {
        let made = finish(&mut operation, images.as_ref(), &fetched, &steps, &watch);
        (operation, made)
    });
    match second.await {
        Ok((operation, Ok((layers, start)))) => {
            (timings.layers, timings.start) = (layers, start);
            Ok((timings, operation))
        }
        Ok((mut operation, Err(cause))) => {
            operation.stop_here();
            Err(Box::new((cause, Some(operation))))
        }
        Err(bug) => Err(Box::new((AllocateCause::Bug(bug), None))),
    }
}

/// The steps that need no image. Blocking.
fn begin(
    operation: &mut Operation,
    steps: &[Step],
    stop: &CancellationToken,
    watch: &Watch,
) -> Result<(u64, u64), AllocateCause> {
    if stop.is_cancelled() {
        return Err(AllocateCause::Cancelled);
    }
    // A helper starts while `intent` is written.
    operation.open()?;
    operation.intend()?;
    if let Err(error) = operation.refuse_foreign(steps) {
        operation.stop_here();
        return Err(error.into());
    }
    let [account, volumes] = operation.execute([Phase::Account, Phase::Volumes], steps, stop, watch)?;
    Ok((account, volumes))
}

/// The steps that need the images, and the commit. Blocking.
fn finish(
    operation: &mut Operation,
    images: &dyn crate::images::ImageSource,
    fetched: &[Fetched],
    steps: &[Step],
    watch: &Watch,
) -> Result<(u64, u64), AllocateCause> {
    // `fetched` holds the layers until the note that needs no process is written. The note is found again by the
    // environment's directory, which is there already and goes after it.
    let layers: Vec<_> = fetched.iter().flat_map(|f| f.layers.iter().cloned()).collect();
    if !layers.is_empty() {
        images.pin(&operation.held.id, &layers).map_err(AllocateCause::Pin)?;
    }
    let [placed] = operation.execute([Phase::Layers], steps, watch.cancel(), watch)?;
    let [started] = operation.execute([Phase::Start], steps, watch.cancel(), watch)?;
    if watch.cancel().is_cancelled() {
        return Err(AllocateCause::Cancelled);
    }
    // From here on it is adopted by a later process.
    operation.commit()?;
    Ok((placed, started))
}

/// Fetches the images until `stop`.
async fn fetch(
    node: &Node,
    request: &AllocateRequest,
    watch: &Watch,
    stop: &CancellationToken,
) -> Result<(Vec<Fetched>, u64), AllocateCause> {
    let images = &request.definition.images;
    if images.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let running = watch.phase(Phase::Images);
    let fetched = tokio::select! {
        biased;
        () = stop.cancelled() => Err(AllocateCause::Cancelled),
        fetched = fetch_all(&node.images, images, watch) => fetched,
    };
    match fetched {
        Ok(fetched) => Ok((fetched, running.done())),
        Err(error) => {
            stop.cancel();
            Err(error)
        }
    }
}

impl From<JournalError> for AllocateError {
    fn from(error: JournalError) -> Self {
        AllocateCause::from(error).into()
    }
}

impl From<CapacityError> for AllocateError {
    fn from(error: CapacityError) -> Self {
        AllocateCause::from(error).into()
    }
}
