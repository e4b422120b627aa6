//! Many at once: allocations, deallocations, cancellations, processes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Rig, definition, image, request, small};
use native_driver::{
    AllocateCause, AllocateRequest, DeallocateError, Driver, ExitCode, Explain, Phase, Progress, Watch,
};
use native_platform::HostFacts;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[test]
fn twenty_at_once_have_twenty_names_and_leave_nothing() {
    let rig = Rig::new();
    rig.host.set_facts(HostFacts { cpus: 64, memory_bytes: 256 << 30 });
    let driver = rig.driver();
    rig.runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..20 {
            let driver = Arc::clone(&driver);
            tasks.spawn(async move { driver.allocate(request(), Watch::quiet()).await.unwrap() });
        }
        let made = tasks.join_all().await;
        let names: BTreeSet<_> = made.iter().map(|m| m.identifier.clone()).collect();
        let uids: BTreeSet<_> = made.iter().map(|m| m.uid).collect();
        assert_eq!((names.len(), uids.len()), (20, 20));
        assert_eq!(driver.list().await.unwrap().len(), 20);
        let mut tasks = JoinSet::new();
        for name in names {
            let driver = Arc::clone(&driver);
            tasks.spawn(async move { driver.deallocate(&name, Watch::quiet()).await.unwrap() });
        }
        assert!(tasks.join_all().await.iter().all(|g| g.audit.clean));
    });
    rig.assert_clean(&"twenty");
}

#[test]
fn processes_that_race_for_room_never_overbook() {
    for round in 0..5 {
        let rig = Rig::new();
        // Four processes on one workspace; eight CPUs; twenty who want one each.
        let drivers: Vec<_> = (0..4).map(|_| rig.driver()).collect();
        rig.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for n in 0..20 {
                let driver = Arc::clone(&drivers[n % 4]);
                tasks.spawn(async move { driver.allocate(small(), Watch::quiet()).await });
            }
            let results = tasks.join_all().await;
            let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!((made.len(), refused.len()), (8, 12), "round {round}");
            for error in refused.into_iter().filter_map(Result::err) {
                assert!(matches!(error.cause, AllocateCause::DoesNotFit(_)), "{error:?}");
                assert_eq!(error.code(), ExitCode::DoesNotFit);
                assert_eq!(error.identifier, None);
            }
            for made in made.into_iter().flatten() {
                drivers[0].deallocate(&made.identifier, Watch::quiet()).await.unwrap();
            }
        });
        rig.assert_clean(&"the race");
    }
}

#[test]
fn only_one_of_those_that_tolerate_nobody() {
    let rig = Rig::new();
    let drivers: Vec<_> = (0..4).map(|_| rig.driver()).collect();
    let alone = || {
        let mut request = small();
        request.definition.resources.multitenancy = false;
        request
    };
    rig.runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for driver in &drivers {
            let driver = Arc::clone(driver);
            let request = alone();
            tasks.spawn(async move { driver.allocate(request, Watch::quiet()).await });
        }
        let made: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(made.len(), 1);
        drivers[0].deallocate(&made[0].identifier, Watch::quiet()).await.unwrap();
    });
    rig.assert_clean(&"alone");
}

#[test]
fn ten_deallocations_of_one_environment() {
    let rig = Rig::new();
    let drivers: Vec<_> = (0..3).map(|_| rig.driver()).collect();
    rig.runtime.block_on(async {
        let made = drivers[0].allocate(request(), Watch::quiet()).await.unwrap().identifier;
        let mut tasks = JoinSet::new();
        for n in 0..10 {
            let (driver, made) = (Arc::clone(&drivers[n % 3]), made.clone());
            tasks.spawn(async move { driver.deallocate(&made, Watch::quiet()).await });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error, DeallocateError::NoSuch(_)), "{error}");
            assert_eq!(error.code(), ExitCode::NoSuchEnvironment);
        }
    });
    rig.assert_clean(&"ten");
}

/// Cancels at the first event that `when` picks; says whether there was one.
fn cancelled_at(rig: &Rig, request: AllocateRequest, when: impl Fn(&Progress) -> bool + Send + Sync + 'static) -> bool {
    let driver = rig.driver();
    let (cancel, hit) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let (token, seen) = (cancel.clone(), Arc::clone(&hit));
    let watch = Watch::new(cancel, move |event| {
        if when(&event) {
            seen.store(true, Ordering::SeqCst);
            token.cancel();
        }
    });
    let made = rig.runtime.block_on(driver.allocate(request, watch));
    let error = made.expect_err("it was cancelled");
    assert!(matches!(error.cause, AllocateCause::Cancelled), "{error:?}");
    assert_eq!(error.code(), ExitCode::Interrupted);
    hit.load(Ordering::SeqCst)
}

#[test]
fn cancelling_in_any_phase_leaves_nothing() {
    for phase in [Phase::Account, Phase::Volumes, Phase::Images, Phase::Layers, Phase::Start] {
        let rig = Rig::new();
        assert!(cancelled_at(&rig, request(), move |e| *e == Progress::Started(phase)), "{phase} began");
        rig.assert_clean(&format!("cancelled when {phase} began"));
        let rig = Rig::new();
        let ended = move |e: &Progress| matches!(e, Progress::Finished { phase: p, .. } if *p == phase);
        assert!(cancelled_at(&rig, request(), ended), "{phase} ended");
        rig.assert_clean(&format!("cancelled when {phase} had ended"));
    }
    let rig = Rig::new();
    assert!(cancelled_at(&rig, request(), |e| matches!(e, Progress::Claimed(_))));
    rig.assert_clean(&"cancelled when it was claimed");
}

#[test]
fn cancelling_a_download_that_hangs_leaves_nothing() {
    let rig = Rig::new();
    let mut definition = definition();
    definition.images.push(image("hangs", None));
    let ended = |e: &Progress| matches!(e, Progress::Finished { phase: Phase::Volumes, .. });
    assert!(cancelled_at(&rig, AllocateRequest::new(definition), ended));
    rig.assert_clean(&"a download that hung");
}

#[test]
fn a_refused_image_stops_the_rest_and_leaves_nothing() {
    let rig = Rig::new();
    let mut definition = definition();
    definition.images.push(image("fails", None));
    definition.images.push(image("hangs", None));
    let driver = rig.driver();
    let request = AllocateRequest::new(definition);
    let error = rig.runtime.block_on(driver.allocate(request, Watch::quiet())).unwrap_err();
    assert!(matches!(&error.cause, AllocateCause::Image { image, .. } if image == "fails-1"), "{error:?}");
    assert_eq!((error.code(), error.step()), (ExitCode::ImageRefused, Some("images")));
    rig.assert_clean(&"a refused image");
}

#[test]
fn a_failed_step_stops_a_download_that_hangs() {
    let rig = Rig::new();
    let mut definition = definition();
    definition.images.push(image("hangs", None));
    definition.groups = vec!["nosuch".parse().unwrap()];
    let driver = rig.driver();
    let request = AllocateRequest::new(definition);
    let error = rig.runtime.block_on(driver.allocate(request, Watch::quiet())).unwrap_err();
    assert_eq!((error.code(), error.step()), (ExitCode::Usage, Some("account")), "{error:?}");
    rig.assert_clean(&"a failed step");
}

#[test]
fn a_dropped_future_cleans_up_by_itself() {
    let rig = Rig::new();
    let driver = rig.driver();
    let mut definition = definition();
    definition.images.push(image("hangs", None));
    rig.runtime.block_on(async {
        let begun = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&begun);
        let watch = Watch::new(CancellationToken::new(), move |e| {
            if matches!(e, Progress::Finished { phase: Phase::Volumes, .. }) {
                notify.notify_one();
            }
        });
        tokio::select! {
            _ = driver.allocate(AllocateRequest::new(definition), watch) => panic!("it hangs"),
            () = begun.notified() => {}
        }
    });
    // The clean-up holds the environment's lock until it is done; a deallocation waits for exactly that.
    let id = rig.ids().pop();
    if let Some(id) = id {
        let error = rig.runtime.block_on(driver.deallocate(&id, Watch::quiet())).unwrap_err();
        assert!(matches!(error, DeallocateError::NoSuch(_)), "{error}");
    }
    // The directory's name is gone; its last files go without a lock. A start removes what is still there of them.
    rig.recovered().unwrap();
    rig.assert_clean(&"a dropped future");
}

#[test]
fn a_deallocation_waits_for_the_allocation() {
    let rig = Rig::new();
    let driver = rig.driver();
    rig.runtime.block_on(async {
        let (send, mut claimed) = tokio::sync::mpsc::unbounded_channel();
        let watch = Watch::new(CancellationToken::new(), move |e| {
            if let Progress::Claimed(id) = e {
                drop(send.send(id));
            }
        });
        let allocate = driver.allocate(request(), watch);
        let deallocate = async {
            let id = claimed.recv().await.unwrap();
            driver.deallocate(&id, Watch::quiet()).await
        };
        let (made, gone) = tokio::join!(allocate, deallocate);
        assert_eq!(made.unwrap().identifier, gone.unwrap().identifier);
    });
    rig.assert_clean(&"one after the other");
}

#[test]
fn a_wait_for_a_lock_can_be_cancelled() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = rig.runtime.block_on(driver.allocate(request(), Watch::quiet())).unwrap().identifier;
    let lock = std::fs::File::open(rig.journal_path(&made).with_file_name("lock")).unwrap();
    lock.try_lock().unwrap();
    let cancel = CancellationToken::new();
    let watch = Watch::new(cancel.clone(), |_| {});
    rig.runtime.block_on(async {
        let waiting = driver.deallocate(&made, watch);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            cancel.cancel();
        };
        let (gone, ()) = tokio::join!(waiting, stop);
        assert!(matches!(gone, Err(DeallocateError::Cancelled)));
    });
    drop(lock);
    rig.runtime.block_on(driver.deallocate(&made, Watch::quiet())).unwrap();
    rig.assert_clean(&"after the wait");
}
