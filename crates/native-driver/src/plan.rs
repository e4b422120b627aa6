//! The planner: a definition becomes a list of steps. Pure: no I/O, no clock, no randomness.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use native_config::{
    Definition, DiskKind, DiskName, DriverConfig, EnvironmentId, GroupStanding, Isolation, Lifetime, TemplateContext,
};
use native_platform::{
    AccountStep, Backing, LayerSource, LayersStep, Limits, Step, Variables, VolumeName, VolumeStep, WorkloadStep,
};

use crate::driver::AllocateRequest;
use crate::error::{DefinitionProblem, PlanError, ValidateError};
use crate::progress::millis;
use crate::report::Grant;

/// What "GB" means in labels.
pub(crate) const GB: u64 = 1 << 30;
/// The home's disk when the config names no size. Thin: space is taken as it is written.
const HOME: u64 = 10 * GB;
/// The temporary directories' disk when the config names no size. Thin as well.
const TEMP: u64 = 2 * GB;
/// No volume of ours is made smaller than this: a file system does not fit into less.
const LEAST: u64 = 16 << 20;

/// Where things of an environment are, and how much room there is.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) id: EnvironmentId,
    pub(crate) home: PathBuf,
    pub(crate) disks: BTreeMap<DiskName, PathBuf>,
    /// Whether the home and the temporary directory have a file system of their own also without a chosen size.
    pub(crate) sizes_homes: bool,
    /// Free space of the workspace: thin volumes without a size are not made larger.
    pub(crate) free_bytes: u64,
    /// Sizes of what disks are cloned from, for disks that leave their own to it.
    pub(crate) clone_bytes: BTreeMap<DiskName, u64>,
}

/// What a definition promises to its environment, for the accounting.
pub(crate) fn grant(definition: &Definition, config: &DriverConfig, clone_bytes: &BTreeMap<DiskName, u64>) -> Grant {
    let resources = &definition.resources;
    let cloned = resources.disks.iter().filter(|(_, d)| d.size_gb == 0).filter_map(|(n, _)| clone_bytes.get(n));
    // Only sizes that somebody chose are promised. Home and temp are thin by default.
    let bytes = [config.home_size, config.tmp_size].into_iter().flatten().chain(cloned.copied());
    let more: u64 = bytes.map(|b| b.div_ceil(GB)).fold(0, u64::saturating_add);
    Grant {
        cpu: resources.cpu,
        ram_gb: resources.ram_gb,
        disk_gb: resources.disk_gb().saturating_add(more),
        multitenancy: resources.multitenancy,
        cpu_overbook: resources.cpu_overbook,
        ram_overbook: resources.ram_overbook,
    }
}

/// Everything about a definition that can be judged without a host.
pub(crate) fn validate(definition: &Definition, config: Option<&DriverConfig>) -> Result<Vec<String>, ValidateError> {
    let mut problems = Vec::new();
    let mut refuse = |field: String, message: String, hint: Option<String>| {
        problems.push(DefinitionProblem { field, message, hint });
    };
    if !definition.is_native() {
        let hint = "this driver makes definitions with `driver: native`".to_owned();
        refuse("driver".to_owned(), format!("{} is another driver's", definition.driver), Some(hint));
    }
    let allowed = config.map(|c| c.allowed_groups.as_slice()).unwrap_or_default();
    for (n, group) in definition.groups.iter().enumerate() {
        let field = format!("groups[{n}]");
        if definition.groups[..n].contains(group) {
            refuse(field, format!("{group} is there twice"), None);
        } else if !allowed.is_empty() && !allowed.contains(group) {
            let names: Vec<_> = allowed.iter().map(ToString::to_string).collect();
            refuse(field, format!("{group} is not allowed"), Some(format!("allowed are {}", names.join(", "))));
        } else {
            match group.standing() {
                GroupStanding::Root => {
                    refuse(field, format!("{group} is root's own group, which no config allows"), None)
                }
                GroupStanding::Privileged if allowed.is_empty() => refuse(
                    field,
                    format!("{group} is a privileged group"),
                    Some(format!("an operator allows it with `allowed_groups: [{group}]`")),
                ),
                GroupStanding::Privileged | GroupStanding::Usual => {}
            }
        }
    }
    for (n, image) in definition.images.iter().enumerate() {
        if let Some(tag) = &image.tag
            && !definition.resources.disks.contains_key(tag)
        {
            refuse(format!("images[{n}].tag"), format!("there is no disk {tag}"), None);
        }
    }
    let mut warnings = Vec::new();
    if config.is_some_and(|c| c.isolation == Isolation::Basic) {
        // Said each time: what is promised is less than usual.
        warnings.push(
            "isolation: basic: the workload shares the host's /tmp, sees its processes, and may write wherever everybody \
             may; what it leaves is searched for and removed, rather than impossible"
                .to_owned(),
        );
    }
    for (name, disk) in &definition.resources.disks {
        let field = format!("resources.disks.{name}");
        if let Some(origin) = &disk.clone {
            if !Path::new(origin).is_absolute() {
                refuse(format!("{field}.clone"), format!("{origin:?} is not an absolute path"), None);
            }
        } else if disk.size_gb == 0 {
            refuse(format!("{field}.size"), "the size is 0".to_owned(), Some("in GB, at least 1".to_owned()));
        }
        if disk.kind == DiskKind::Dir && disk.size_gb > 0 {
            warnings.push(format!("{field}: the size of a `type: dir` disk is not enforced"));
        }
    }
    // The paths are stand-ins: whether the template is good does not depend on them.
    let disks = definition.resources.disks.keys().map(|d| (d.clone(), PathBuf::from(format!("/{d}")))).collect();
    if let Err(error) = definition.render_entry(&context("fish-aaaaaa", &disks)) {
        refuse("entry".to_owned(), error.to_string(), None);
    }
    if problems.is_empty() { Ok(warnings) } else { Err(ValidateError(problems)) }
}

/// What templates see.
fn context(user: &str, disks: &BTreeMap<DiskName, PathBuf>) -> TemplateContext {
    TemplateContext {
        disks: disks.iter().map(|(n, p)| (n.to_string(), p.display().to_string())).collect(),
        user: user.to_owned(),
    }
}

/// The steps, in the order that they are executed. Layers have no directories yet.
pub(crate) fn plan(request: &AllocateRequest, config: &DriverConfig, layout: &Layout) -> Result<Vec<Step>, PlanError> {
    let definition = &request.definition;
    let context = context(layout.id.as_str(), &layout.disks);
    let mut steps = vec![Step::Account(AccountStep { groups: definition.groups.clone(), kind: config.account })];
    steps.extend(volumes(definition, config, layout).into_iter().map(Step::Volume));
    steps.extend(layers(definition).into_iter().map(Step::Layers));
    let entry = definition.render_entry(&context).map_err(PlanError::Entry)?;
    let variables = native_config::environment(&request.metadata, &request.label_metadata, &context);
    let lifetime = match request.lifetime.unwrap_or(definition.resources.lifetime) {
        Lifetime::Default => config.default_lifetime,
        chosen => chosen,
    };
    let resources = &definition.resources;
    steps.push(Step::Workload(WorkloadStep {
        entry: entry.display().to_string(),
        variables: Variables(variables.map_err(PlanError::Metadata)?),
        limits: Limits {
            mode: config.limits,
            cpu: resources.cpu,
            cpu_shared: resources.cpu_overbook && config.cpu_overbook > 0,
            memory_bytes: u64::from(resources.ram_gb).saturating_mul(GB),
            pids: config.pids_max,
            open_files: config.open_files,
        },
        lifetime_ms: match lifetime {
            Lifetime::For(time) => Some(millis(time)),
            // A default that is itself left to the default is no limit.
            Lifetime::Unlimited | Lifetime::Default => None,
        },
        stop_grace_ms: millis(config.stop_grace),
        log_bytes: config.log_size,
        writable_paths: config.writable_paths.clone(),
        allow_setuid: config.allow_setuid,
    }));
    Ok(steps)
}

fn volumes(definition: &Definition, config: &DriverConfig, layout: &Layout) -> Vec<VolumeStep> {
    let thin = |chosen: Option<u64>, usual: u64| chosen.unwrap_or(usual.min(layout.free_bytes)).max(LEAST);
    let plain = |volume, chosen: Option<u64>, usual| VolumeStep {
        volume,
        backing: match chosen {
            None if !layout.sizes_homes => Backing::Dir,
            chosen => Backing::Sized { bytes: thin(chosen, usual), fs: None },
        },
        label: None,
        reuse: false,
        clone_from: None,
    };
    let mut volumes =
        vec![plain(VolumeName::Home, config.home_size, HOME), plain(VolumeName::Temp, config.tmp_size, TEMP)];
    for (name, disk) in &definition.resources.disks {
        let bytes = match disk.size_gb {
            0 => layout.clone_bytes.get(name).copied().unwrap_or(0),
            gb => u64::from(gb).saturating_mul(GB),
        };
        volumes.push(VolumeStep {
            volume: VolumeName::Disk(name.clone()),
            backing: match &disk.kind {
                DiskKind::Dir => Backing::Dir,
                DiskKind::Default => Backing::Sized { bytes, fs: None },
                DiskKind::Fs(fs) => Backing::Sized { bytes, fs: Some(fs.clone()) },
            },
            label: disk.label.clone(),
            reuse: disk.reuse,
            clone_from: disk.clone.as_ref().map(PathBuf::from),
        });
    }
    volumes
}

/// One step per volume that images go to, home first; in each the images in the label's order.
fn layers(definition: &Definition) -> Vec<LayersStep> {
    let mut by_volume: BTreeMap<VolumeName, Vec<LayerSource>> = BTreeMap::new();
    for image in &definition.images {
        let volume = image.tag.clone().map_or(VolumeName::Home, VolumeName::Disk);
        by_volume.entry(volume).or_default().push(LayerSource {
            image: image_id(image),
            digest: image.sum.as_ref().map(ToString::to_string).unwrap_or_default(),
            dir: PathBuf::new(),
        });
    }
    by_volume.into_iter().map(|(volume, layers)| LayersStep { volume, layers }).collect()
}

/// An image's name for people, and what its cache entry is called.
pub(crate) fn image_id(image: &native_config::Image) -> String {
    format!("{}-{}", image.name, image.version)
}

/// Puts the layers that were fetched into a plan. `fetched` has one list per image of the definition.
pub(crate) fn fill_layers(steps: &mut [Step], definition: &Definition, fetched: &[Vec<LayerSource>]) {
    for step in steps {
        let Step::Layers(step) = step else { continue };
        let here = |image: &native_config::Image| match (&image.tag, &step.volume) {
            (None, VolumeName::Home) => true,
            (Some(tag), VolumeName::Disk(name)) => tag == name,
            _ => false,
        };
        let images = definition.images.iter().zip(fetched);
        step.layers = images.filter(|(image, _)| here(image)).flat_map(|(_, layers)| layers.iter().cloned()).collect();
    }
}

/// Makes a plan of the doctor small: it only shows that it can be done.
pub(crate) fn shrink(steps: &mut [Step]) {
    for step in steps {
        if let Step::Volume(VolumeStep { backing: Backing::Sized { bytes, .. }, .. }) = step {
            *bytes = 2 * LEAST;
        }
    }
}
