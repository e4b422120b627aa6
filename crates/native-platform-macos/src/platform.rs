//! [`MacPlatform`]: [`native_platform::Platform`] on macOS.

use std::path::PathBuf;
use std::sync::Arc;

use native_config::{DiskName, EnvironmentId, GroupName};
use native_platform::{Check, ErrorKind, HostFacts, Leak, Platform, Runner, Scope, Session, StepError, StepKind};

use crate::config::MacConfig;
use crate::mac::Mac;
use crate::session::MacSession;
use crate::store::Store;
use crate::table as t;
use crate::tools::Tools;

/// A Mac.
#[derive(Debug, Clone)]
pub struct MacPlatform {
    pub(crate) mac: Mac,
}

impl MacPlatform {
    /// Over a runner: the real one, or one that tests watch.
    pub fn new(config: MacConfig, runner: Arc<dyn Runner>) -> Self {
        let store = Store::new(&config.site.places.state, config.caller);
        Self { mac: Mac { tools: Tools::new(Arc::new(config), runner), store } }
    }

    /// The number of a group of this host, for [`native_platform::command::Site::groups`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no such group.
    pub fn group_number(&self, group: &GroupName) -> Result<u32, StepError> {
        self.mac.group(group.as_str()).map(|(gid, _)| gid)
    }

    /// How this host is used.
    pub fn config(&self) -> &MacConfig {
        &self.mac.tools.config
    }
}

impl Platform for MacPlatform {
    fn name(&self) -> &'static str {
        "macos"
    }

    fn home(&self, id: &EnvironmentId) -> PathBuf {
        self.config().home(id.as_str())
    }

    fn disk(&self, id: &EnvironmentId, disk: &DiskName) -> PathBuf {
        self.config().volume(id.as_str(), disk.as_str())
    }

    fn sizes_homes(&self) -> bool {
        false
    }

    fn facts(&self) -> Result<HostFacts, StepError> {
        let said = self.mac.tools.run(&t::HARDWARE, &[]).map_err(self.mac.tools.failed(StepKind::Platform))?;
        let mut lines = said.out.lines().map(str::trim);
        let cpus = lines.next().and_then(|l| l.parse().ok());
        match (cpus, lines.next().and_then(|l| l.parse().ok())) {
            (Some(cpus), Some(memory_bytes)) => Ok(HostFacts { cpus, memory_bytes }),
            _ => Err(StepError::failed(StepKind::Platform, format!("sysctl said {:?}", said.out.trim()))),
        }
    }

    fn checks(&self) -> Result<Vec<Check>, StepError> {
        Ok(self.mac.checks())
    }

    fn open(&self, scope: &Scope) -> Result<Box<dyn Session>, StepError> {
        let range = self.config().site.uids;
        if scope.uids.0 < range.0 || scope.uids.1 > range.1 || scope.uids.0 > scope.uids.1 {
            let message =
                format!("uids {} to {} are outside of {} to {}", scope.uids.0, scope.uids.1, range.0, range.1);
            return Err(StepError::new(StepKind::Platform, ErrorKind::Invalid, message)
                .hint("set uid_min and uid_max in the driver's config as in the helper's"));
        }
        self.mac.prepare()?;
        Ok(Box::new(MacSession::open(self.mac.clone(), scope)?))
    }

    fn known(&self) -> Result<Vec<Scope>, StepError> {
        let records = self.mac.store.records().map_err(|e| e.at(StepKind::Platform))?;
        Ok(records.into_iter().map(|r| r.scope).collect())
    }

    fn audit(&self, alive: &[EnvironmentId]) -> Result<Vec<Leak>, StepError> {
        self.mac.audit_host(alive)
    }

    fn sweep(&self) -> Result<(), StepError> {
        // The search knows accounts and volumes by the store's records alone: what it finds is a session's to purge.
        Ok(())
    }
}
