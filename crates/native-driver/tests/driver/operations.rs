//! Each operation of the trait, on a host that works.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use crate::common::{Rig, definition, disk, request, small};
use native_config::{DiskKind, DriverConfig, Lifetime, Metadata, Template};
use native_driver::{
    AllocateCause, AllocateRequest, Driver, ExitCode, Explain, LimitedBy, NativeDriver, NodeUsage, ObserveError, Phase,
    PrepareError, PrepareOptions, Progress, Status, Tenant, Watch, WhatIf,
};
use native_platform::{Check, Enter, Step, Stream, VolumeName};
use tokio_util::sync::CancellationToken;

#[test]
fn a_life() {
    let rig = Rig::new();
    let driver = rig.driver();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let watch = Watch::new(CancellationToken::new(), move |e| sink.lock().unwrap().push(e));
    let made = rig.runtime.block_on(driver.allocate(request(), watch)).unwrap();
    let id = made.identifier.clone();
    assert_eq!((made.user.as_str(), made.uid), (id.as_str(), 70000));
    assert_eq!(made.home, std::path::PathBuf::from(format!("/home/{id}")));
    assert_eq!(made.disks.len(), 2);
    for phase in [Phase::Account, Phase::Volumes, Phase::Images, Phase::Layers, Phase::Start] {
        let events = seen.lock().unwrap();
        assert!(events.contains(&Progress::Started(phase)), "{phase}: {events:?}");
    }
    let json = serde_json::to_value(&made).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["disks", "home", "identifier", "timings_ms", "uid", "user"]);
    let keys: Vec<_> = json["timings_ms"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["account", "images", "layers", "start", "total", "volumes"]);

    let state = rig.host.state();
    let workload = &state.workloads[id.as_str()];
    assert_eq!(workload.entry, format!("/home/{id}/disks/ws/init.sh"));
    let variables: BTreeMap<_, _> = workload.variables.iter().cloned().collect();
    assert_eq!(variables["TOKEN"], "secret-of-app");
    assert_eq!(variables["WS"], format!("/home/{id}/disks/ws"));
    let layers = |v: VolumeName| state.volumes[&(id.to_string(), v)].layers.clone();
    assert_eq!(layers(VolumeName::Home), ["sha256:base0", "sha256:base1"]);
    assert_eq!(layers(VolumeName::Disk("ws".parse().unwrap())), ["sha256:tools0", "sha256:tools1"]);
    assert_eq!(rig.images.pins()[&id].len(), 4);

    // Nothing in the workspace holds a secret, and the journal is its owner's alone.
    let text = fs::read_to_string(rig.journal_path(&id)).unwrap();
    assert!(text.contains("TOKEN") && !text.contains("secret-of-app"), "{text}");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(rig.journal_path(&id)).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(rig.journal(&id).unwrap().layer_dirs.len(), 4);

    let status = rig.runtime.block_on(driver.inspect(&id)).unwrap();
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((json["status"].as_str(), json["running"].as_bool()), (Some("ALLOCATED"), Some(true)));
    for key in ["identifier", "phase", "exit_code", "pids", "usage"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    rig.host.end(&id, 3);
    let exit = rig.runtime.block_on(driver.wait(&id, CancellationToken::new())).unwrap();
    assert_eq!(exit.code, 3);
    let gone = rig.runtime.block_on(driver.deallocate(&id, Watch::quiet())).unwrap();
    assert_eq!((gone.exit_code, gone.audit.clean), (Some(3), true));
    assert_eq!(rig.runtime.block_on(driver.status(&id)).unwrap(), Status::None);
    let error = rig.runtime.block_on(driver.inspect(&id)).unwrap_err();
    assert_eq!(error.code(), ExitCode::NoSuchEnvironment);
    rig.assert_clean(&"a life");
}

#[test]
fn a_driver_that_was_not_prepared_says_so() {
    let rig = Rig::new();
    let driver = rig.process();
    let error = rig.runtime.block_on(driver.list()).unwrap_err();
    assert!(matches!(error, ObserveError::NotPrepared));
    assert!(!driver.is_remote());
    assert_eq!(driver.name().as_str(), "native");
    assert_eq!(rig.runtime.block_on(driver.task("snapshot", &serde_json::Value::Null)), None);
}

#[test]
fn a_plan_is_printed_without_doing_anything() {
    let rig = Rig::new();
    let driver = rig.driver();
    let plan = rig.runtime.block_on(driver.plan(&request())).unwrap();
    let text = plan.to_string();
    let expected = "\
1. create the account with group staff
2. create home of 10 GB
3. create temp of 2 GB
4. create disk plain as a directory
5. create disk ws of 1 GB
6. put base-1 over home
7. put tools-1 over disk ws
8. start /home/fish-xxxxxx/disks/ws/init.sh with 1 CPU and 1 GB
";
    assert_eq!(text, expected);
    assert!(!serde_json::to_string(&plan.steps).unwrap().contains("secret"));
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    rig.assert_clean(&"a plan");
}

#[test]
fn sizes_limits_and_lifetimes_reach_the_steps() {
    let mut rig = Rig::new();
    rig.config = DriverConfig {
        home_size: Some(3 << 30),
        tmp_size: Some(100),
        default_lifetime: Lifetime::For(std::time::Duration::from_secs(7)),
        cpu_overbook: 2,
        ..rig.config.clone()
    };
    let driver = rig.driver();
    let mut request = request();
    request.definition.resources.cpu_overbook = true;
    request.definition.resources.disks.insert("xfs".parse().unwrap(), disk(DiskKind::Fs("xfs".to_owned())));
    let steps = rig.runtime.block_on(driver.plan(&request)).unwrap().steps;
    let json = serde_json::to_value(&steps).unwrap();
    assert_eq!(json[1]["backing"]["sized"]["bytes"], 3_u64 << 30);
    assert_eq!(json[2]["backing"]["sized"]["bytes"], 16 << 20, "no file system fits into 100 bytes");
    assert_eq!(json[5]["backing"]["sized"]["fs"], "xfs");
    let Some(Step::Workload(workload)) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(workload.lifetime_ms, Some(7000));
    assert!(workload.limits.cpu_shared);
    request.lifetime = Some(Lifetime::Unlimited);
    let steps = rig.runtime.block_on(driver.plan(&request)).unwrap().steps;
    let Some(Step::Workload(workload)) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(workload.lifetime_ms, None);
}

#[test]
fn privileged_groups_are_refused_unless_allowed_and_root_always() {
    let mut rig = Rig::new();
    let with = |groups: &[&str]| {
        let mut definition = definition();
        definition.groups = groups.iter().map(|g| g.parse().unwrap()).collect();
        definition
    };
    let driver = rig.driver();
    for group in ["root", "wheel", "admin", "sudo", "docker", "disk", "shadow", "kmem", "lxd", "adm"] {
        let error = driver.validate_definition(&with(&["staff", group])).unwrap_err();
        assert_eq!(error.0[0].field, "groups[1]", "{group}");
        assert_eq!(error.code(), ExitCode::Usage);
    }
    assert!(driver.validate_definition(&with(&["staff", "users"])).is_ok());
    assert!(driver.validate_definition(&with(&["staff", "staff"])).is_err());
    rig.config.allowed_groups = ["docker", "root"].map(|g| g.parse().unwrap()).into();
    let driver = rig.driver();
    assert!(driver.validate_definition(&with(&["docker"])).is_ok());
    assert!(driver.validate_definition(&with(&["staff"])).is_err());
    assert!(driver.validate_definition(&with(&["root"])).is_err());
}

#[test]
fn every_problem_of_a_definition_is_named_at_once() {
    let rig = Rig::new();
    let driver = rig.driver();
    let mut bad = definition();
    bad.driver = "docker".to_owned();
    bad.entry = Template::parse("{{ .Disks.nosuch }}/x").unwrap();
    bad.images[1].tag = Some("other".parse().unwrap());
    bad.groups = vec!["root".parse().unwrap()];
    let error = driver.validate_definition(&bad).unwrap_err();
    let fields: Vec<_> = error.0.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(fields, ["driver", "groups[0]", "images[1].tag", "entry"]);
    let error = rig.runtime.block_on(driver.allocate(AllocateRequest::new(bad), Watch::quiet())).unwrap_err();
    assert_eq!((error.code(), error.identifier), (ExitCode::Usage, None));
    rig.assert_clean(&"a bad definition");
}

#[test]
fn a_bad_template_in_the_metadata_makes_nothing() {
    let rig = Rig::new();
    let driver = rig.driver();
    let metadata = Metadata::from_pairs(["A={{ .Disks.nosuch }}"]).unwrap();
    let request = AllocateRequest { label_metadata: metadata, ..request() };
    let error = rig.runtime.block_on(driver.allocate(request, Watch::quiet())).unwrap_err();
    assert_eq!(error.code(), ExitCode::Usage, "{error:?}");
    rig.assert_clean(&"a bad template");
}

#[test]
fn an_entry_that_does_not_exist_is_a_wrong_label() {
    let rig = Rig::new();
    let driver = rig.driver();
    let mut request = small();
    request.definition.entry = Template::parse("./missing").unwrap();
    let error = rig.runtime.block_on(driver.allocate(request, Watch::quiet())).unwrap_err();
    assert_eq!((error.code(), error.step()), (ExitCode::Usage, Some("workload")));
    rig.assert_clean(&"no entry");
}

#[test]
fn capacity_counts_explains_and_answers_what_if() {
    let mut rig = Rig::new();
    let driver = rig.driver();
    let ask = |usage: &NodeUsage| rig.runtime.block_on(driver.available_capacity(usage, &definition())).unwrap();
    let empty = ask(&NodeUsage::Journals);
    assert_eq!((empty.count, empty.limited_by), (8, Some(LimitedBy::Cpu)));
    let made = rig.runtime.block_on(driver.allocate(request(), Watch::quiet())).unwrap();
    let one = ask(&NodeUsage::Journals);
    assert_eq!(one.count, 7);
    assert!(one.explain.iter().any(|l| l.contains(made.identifier.as_str())), "{:?}", one.explain);
    let tenant = Tenant { identifier: "vm".to_owned(), cpu: 6, ram_gb: 1, multitenancy: true, ..Tenant::default() };
    assert_eq!(ask(&NodeUsage::Given(vec![tenant])).count, 2);
    let what_if = WhatIf {
        total_cpu: Some(100),
        total_ram_gb: Some(100),
        total_disk_gb: Some(11),
        usage: NodeUsage::Given(Vec::new()),
    };
    let told = rig.runtime.block_on(driver.capacity(&what_if, &definition())).unwrap();
    assert_eq!((told.count, told.limited_by), (5, Some(LimitedBy::Disk)), "{:?}", told.explain);
    let mut picky = definition();
    picky.resources.node_filter = vec!["OS:darwin".parse().unwrap()];
    let told = rig.runtime.block_on(driver.capacity(&WhatIf::default(), &picky)).unwrap();
    assert_eq!((told.count, told.limited_by), (0, Some(LimitedBy::NodeFilter)));
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!(json["limited_by"], "node_filter");
    let refused = rig.runtime.block_on(driver.allocate(AllocateRequest::new(picky), Watch::quiet())).unwrap_err();
    assert!(matches!(refused.cause, AllocateCause::DoesNotFit(_)));
    assert_eq!(refused.code(), ExitCode::DoesNotFit);
    rig.runtime.block_on(driver.deallocate(&made.identifier, Watch::quiet())).unwrap();
    rig.config.slots = Some(3);
    let driver = rig.driver();
    let told = rig.runtime.block_on(driver.capacity(&WhatIf::default(), &definition())).unwrap();
    assert_eq!((told.count, told.limited_by), (3, Some(LimitedBy::Slots)));
    rig.assert_clean(&"capacity");
}

#[test]
fn logs_from_the_beginning_across_a_rotation_until_the_end() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = rig.runtime.block_on(driver.allocate(small(), Watch::quiet())).unwrap().identifier;
    let path = driver.log_path(&made).unwrap();
    let older = path.with_file_name("log.1");
    fs::write(&older, "one\n").unwrap();
    fs::write(&path, "two\n").unwrap();
    rig.runtime.block_on(async {
        let mut reader = driver.logs(&made, false).await.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        assert_eq!(all, b"one\ntwo\n");

        let mut reader = driver.logs(&made, true).await.unwrap();
        let mut all = Vec::new();
        while all != b"one\ntwo\n" {
            all.extend_from_slice(&reader.next().await.unwrap().unwrap());
        }
        // The keeper writes on, rotates, writes on, and the workload ends.
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"three\n").unwrap();
        fs::rename(&path, &older).unwrap();
        fs::write(&path, "four\n").unwrap();
        while all != b"one\ntwo\nthree\nfour\n" {
            all.extend_from_slice(&reader.next().await.unwrap().unwrap());
        }
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"five\n").unwrap();
        rig.host.end(&made, 0);
        while let Some(piece) = reader.next().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        assert_eq!(String::from_utf8(all).unwrap(), "one\ntwo\nthree\nfour\nfive\n");
        driver.deallocate(&made, Watch::quiet()).await.unwrap();
        let error = driver.logs(&made, false).await.unwrap_err();
        assert_eq!(error.code(), ExitCode::NoSuchEnvironment);
    });
    rig.assert_clean(&"logs");
}

#[test]
fn a_wait_ends_with_the_workload_or_the_token_or_the_environment() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = rig.runtime.block_on(driver.allocate(small(), Watch::quiet())).unwrap().identifier;
    rig.runtime.block_on(async {
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(matches!(driver.wait(&made, cancel).await, Err(ObserveError::Cancelled)));
        let waiting = driver.wait(&made, CancellationToken::new());
        let removing = driver.deallocate(&made, Watch::quiet());
        let (waited, gone) = tokio::join!(waiting, removing);
        assert!(gone.unwrap().audit.clean);
        assert_eq!(waited.unwrap_err().code(), ExitCode::NoSuchEnvironment);
    });
    rig.assert_clean(&"waits");
}

#[test]
fn entering_passes_input_output_and_the_exit_code() {
    let rig = Rig::new();
    let driver = rig.driver();
    let made = rig.runtime.block_on(driver.allocate(small(), Watch::quiet())).unwrap().identifier;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let enter = |words: &[&str]| {
        let command =
            Enter { command: words.iter().map(|w| (*w).to_owned()).collect(), terminal: None, variables: Vec::new() };
        let sink = Arc::clone(&heard);
        let output = Box::new(move |stream: Stream, bytes: &[u8]| sink.lock().unwrap().push((stream, bytes.to_vec())));
        rig.runtime.block_on(driver.enter(&made, command, Box::new(Cursor::new(b"hello".to_vec())), output))
    };
    assert_eq!(enter(&["cat"]).unwrap(), 0);
    assert_eq!(*heard.lock().unwrap(), [(Stream::Out, b"hello".to_vec())]);
    assert_eq!(enter(&["exit", "9"]).unwrap(), 9);
    assert_eq!(enter(&["nosuch"]).unwrap_err().code(), ExitCode::Usage);
    rig.runtime.block_on(driver.deallocate(&made, Watch::quiet())).unwrap();
    assert_eq!(enter(&["cat"]).unwrap_err().code(), ExitCode::NoSuchEnvironment);
}

#[test]
fn the_doctor_makes_a_round_trip_and_leaves_nothing() {
    let rig = Rig::new();
    let driver = rig.driver();
    let found = rig.runtime.block_on(driver.verify(Watch::quiet())).unwrap();
    assert!(found.ready, "{found:?}");
    let trip = found.checks.iter().find(|c| c.id == "round-trip").unwrap();
    assert!(trip.detail.contains("uid=70000"), "{trip:?}");
    rig.assert_clean(&"the doctor");

    // Also on a node that is full, and as a node begins.
    let mut alone = small();
    alone.definition.resources.multitenancy = false;
    let made = rig.runtime.block_on(driver.allocate(alone, Watch::quiet())).unwrap().identifier;
    let node = rig.process();
    let prepared = rig.runtime.block_on(node.prepare(&rig.config, PrepareOptions::NODE, Watch::quiet())).unwrap();
    assert_eq!(prepared.recovered.adopted, [made]);
}

#[test]
fn a_host_that_is_not_ready_says_what_to_do() {
    let rig = Rig::new();
    let missing = Check {
        id: "cgroup".to_owned(),
        ok: false,
        detail: "no cgroup file system".to_owned(),
        fix: "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
    };
    rig.host.set_checks(vec![missing.clone()]);
    let driver = rig.process();
    let error = rig.runtime.block_on(driver.prepare(&rig.config, PrepareOptions::NODE, Watch::quiet())).unwrap_err();
    assert!(matches!(&error, PrepareError::NotReady(checks) if *checks == [missing.clone()]), "{error}");
    assert_eq!((error.code(), error.hint()), (ExitCode::NotReady, Some(missing.fix)));
    let found = rig.runtime.block_on(rig.driver().verify(Watch::quiet())).unwrap();
    assert!(!found.ready);
    rig.assert_clean(&"not ready");
}

#[test]
fn an_alter_that_takes_everything_is_a_wrong_config() {
    let mut rig = Rig::new();
    rig.config.cpu_alter = -8;
    let driver = rig.process();
    let error = rig.runtime.block_on(driver.prepare(&rig.config, PrepareOptions::NODE, Watch::quiet())).unwrap_err();
    assert_eq!(error.code(), ExitCode::Usage, "{error}");
}

#[test]
fn reading_makes_no_directories() {
    let rig = Rig::new();
    let config = DriverConfig {
        workspace_path: Some(rig.workspace.path().join("w")),
        images_path: Some(rig.workspace.path().join("i")),
        ..rig.config.clone()
    };
    let driver = NativeDriver::new("native/big".parse().unwrap(), Arc::new(rig.host.platform()));
    let read = rig.runtime.block_on(driver.prepare(&config, PrepareOptions::READ, Watch::quiet()));
    assert_eq!(read.unwrap(), Default::default());
    assert_eq!(rig.runtime.block_on(driver.list()).unwrap(), []);
    assert_eq!(rig.runtime.block_on(driver.status(&"fish-abcdef".parse().unwrap())).unwrap(), Status::None);
    assert!(rig.runtime.block_on(driver.audit()).unwrap().clean);
    let told = rig.runtime.block_on(driver.capacity(&WhatIf::default(), &small().definition));
    assert!(told.is_ok(), "{told:?}");
    assert_eq!(rig.entries(), Vec::<String>::new());
}
