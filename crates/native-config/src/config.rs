//! The types of the driver's configuration. Plain data; [`crate::parse_config`] makes it.

use crate::{
    AccountKind, GroupName, InstanceName, Isolation, Lifetime, LimitsMode, Origin, Privilege, ProxyUrl, ToolKey,
};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The configured instances of the driver on one node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// At least one.
    pub instances: BTreeMap<InstanceName, DriverConfig>,
}

impl Default for NodeConfig {
    /// One instance called `native` with all defaults.
    fn default() -> Self {
        Self { instances: BTreeMap::from([(InstanceName::default(), DriverConfig::default())]) }
    }
}

/// How multitenancy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tenancy {
    /// An environment that tolerates nobody runs alone and nothing joins it.
    #[default]
    Strict,
    /// As the Go driver counts.
    Lenient,
}

/// One instance of the driver. Sizes are bytes where the name does not say GB.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// Cache of images; `$CWD/fish_native_images` without one. As written: the caller makes it absolute.
    pub images_path: Option<PathBuf>,
    /// Disks and state; `$CWD/fish_native_workspace` without one. As written: the caller makes it absolute.
    pub workspace_path: Option<PathBuf>,
    /// Added to the threads of the host.
    pub cpu_alter: i32,
    /// Added to the memory of the host, in GB.
    pub ram_alter: i32,
    /// Threads that tenants who tolerate it may share.
    pub cpu_overbook: u32,
    /// Memory that tenants who tolerate it may share, in GB.
    pub ram_overbook: u32,
    /// HTTP basic authentication.
    pub download_user: Option<String>,
    /// HTTP basic authentication; never shown by `Debug`.
    pub download_password: Option<SecretString>,
    /// The only origins that the credentials are sent to. Empty: the driver decides.
    pub download_origins: Vec<Origin>,
    /// More certificate authorities, a PEM file.
    pub download_ca: Option<PathBuf>,
    /// The proxy for downloads.
    pub download_proxy: Option<ProxyUrl>,
    /// Tools with a configured path; the others are found in PATH.
    pub tools: BTreeMap<ToolKey, PathBuf>,
    /// How the driver gets its rights.
    pub privilege: Privilege,
    /// Where the environment's account lives.
    pub account: AccountKind,
    /// How far the workload is kept apart.
    pub isolation: Isolation,
    /// Whether limits are enforced.
    pub limits: LimitsMode,
    /// How multitenancy counts.
    pub tenancy: Tenancy,
    /// First uid for environments (70000).
    pub uid_min: u32,
    /// Last uid for environments (79999).
    pub uid_max: u32,
    /// Size of the home directory's disk.
    pub home_size: Option<u64>,
    /// Size of the private temporary directories.
    pub tmp_size: Option<u64>,
    /// How much of the workload's output is kept (64 MB).
    pub log_size: u64,
    /// How long a stopped workload has to end by itself (5 s).
    pub stop_grace: Duration,
    /// The lifetime of environments whose label leaves it to the default.
    pub default_lifetime: Lifetime,
    /// What an environment may write outside its own directories.
    pub writable_paths: Vec<PathBuf>,
    /// The groups that labels may ask for. Empty: the driver decides.
    pub allowed_groups: Vec<GroupName>,
    /// Lets setuid programs in images keep the bit.
    pub allow_setuid: bool,
    /// The most that the image cache may hold.
    pub images_max_size: Option<u64>,
    /// Memory that the decoders of one image may take.
    pub images_memory: Option<u64>,
    /// How many environments may run at once.
    pub slots: Option<u32>,
    /// Replaces the node's own identifiers.
    pub node_identifiers: Option<Vec<String>>,
    /// Processes of an environment (4096).
    pub pids_max: u32,
    /// Open files of each process (65536).
    pub open_files: u64,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            images_path: None,
            workspace_path: None,
            cpu_alter: 0,
            ram_alter: 0,
            cpu_overbook: 0,
            ram_overbook: 0,
            download_user: None,
            download_password: None,
            download_origins: Vec::new(),
            download_ca: None,
            download_proxy: None,
            tools: BTreeMap::new(),
            privilege: Privilege::default(),
            account: AccountKind::default(),
            isolation: Isolation::default(),
            limits: LimitsMode::default(),
            tenancy: Tenancy::default(),
            uid_min: 70_000,
            uid_max: 79_999,
            home_size: None,
            tmp_size: None,
            log_size: 64_000_000,
            stop_grace: Duration::from_secs(5),
            default_lifetime: Lifetime::Default,
            writable_paths: Vec::new(),
            allowed_groups: Vec::new(),
            allow_setuid: false,
            images_max_size: None,
            images_memory: None,
            slots: None,
            node_identifiers: None,
            pids_max: 4_096,
            open_files: 65_536,
        }
    }
}

/// `|negative alter|` would leave the host nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {alter}, but the host has only {total}: nothing would be left")]
pub struct AlterError {
    /// `cpu_alter` or `ram_alter`.
    pub key: &'static str,
    /// The configured value.
    pub alter: i32,
    /// What the host has.
    pub total: u32,
}

impl DriverConfig {
    /// Checks both alters against the threads and the memory (GB) that the host has.
    ///
    /// # Errors
    ///
    /// For a negative value that takes away all or more.
    pub fn check_alter(&self, cpu: u32, ram_gb: u32) -> Result<(), AlterError> {
        for (key, alter, total) in [("cpu_alter", self.cpu_alter, cpu), ("ram_alter", self.ram_alter, ram_gb)] {
            if alter < 0 && alter.unsigned_abs() >= total {
                return Err(AlterError { key, alter, total });
            }
        }
        Ok(())
    }
}
