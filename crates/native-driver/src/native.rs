//! [`NativeDriver`]: the driver, as a node makes it.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use native_config::{Definition, DriverConfig, EnvironmentId, InstanceName};
use native_platform::{Enter, Exit, Platform, StepKind};
use tokio_util::sync::CancellationToken;

use crate::driver::{AllocateRequest, Driver, OutputSink, Plan, PrepareOptions};
use crate::error::{
    AllocateCause, AllocateError, AuditError, CapacityError, DeallocateError, ObserveError, PlanError, PrepareError,
    ValidateError,
};
use crate::images::{Cache, ImageSource};
use crate::logs::LogReader;
use crate::node::{Node, blocking, detached};
use crate::plan;
use crate::progress::{Phase, Watch};
use crate::report::{
    Allocated, Audit, AuditFixed, Capacity, Deallocated, EnvironmentStatus, NodeUsage, Prepared, Status, Verified,
    WhatIf,
};
use crate::store::{FsStore, Store};
use crate::{allocate, capacity, deallocate, doctor, identifiers, observe, recover};

type MakeStore = Box<dyn Fn(&Path) -> Arc<dyn Store> + Send + Sync>;

/// The Native driver: throw-away user environments on this very host.
pub struct NativeDriver {
    name: InstanceName,
    platform: Arc<dyn Platform>,
    make_store: MakeStore,
    images: Option<Arc<dyn ImageSource>>,
    node: RwLock<Option<Arc<Node>>>,
}

impl fmt::Debug for NativeDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeDriver")
            .field("name", &self.name)
            .field("platform", &self.platform.name())
            .finish_non_exhaustive()
    }
}

impl NativeDriver {
    /// An instance on a platform. [`Driver::prepare`] comes next.
    pub fn new(name: InstanceName, platform: Arc<dyn Platform>) -> Self {
        let make_store: MakeStore = Box::new(|root| Arc::new(FsStore::new(root)));
        Self { name, platform, make_store, images: None, node: RwLock::new(None) }
    }

    /// Puts something between the driver and its workspace. For tests.
    #[must_use]
    pub fn with_store(mut self, make: impl Fn(&Path) -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        self.make_store = Box::new(make);
        self
    }

    /// Takes layers from somewhere else than the cache in `images_path`, which is then not opened.
    #[must_use]
    pub fn with_images(mut self, images: Arc<dyn ImageSource>) -> Self {
        self.images = Some(images);
        self
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn make_node(&self, config: &DriverConfig, make: bool) -> Result<Node, PrepareError> {
        let workspace = directory("workspace_path", config.workspace_path.as_deref(), "fish_native_workspace", make)?;
        let images: Arc<dyn ImageSource> = match &self.images {
            Some(images) => Arc::clone(images),
            None => {
                let dir = directory("images_path", config.images_path.as_deref(), "fish_native_images", make)?;
                let cache = Cache::new(dir, config);
                if make {
                    cache.open()?;
                }
                Arc::new(cache)
            }
        };
        Ok(Node {
            name: self.name.clone(),
            platform: Arc::clone(&self.platform),
            store: (self.make_store)(&workspace),
            images,
            identifiers: config.node_identifiers.clone().unwrap_or_else(identifiers::of_host),
            config: config.clone(),
            workspace,
            probe: false,
        })
    }
}

/// Makes a directory of ours, if it is wanted, and says where it really is: paths are handed to another process, and
/// compared.
fn directory(what: &'static str, configured: Option<&Path>, usual: &str, make: bool) -> Result<PathBuf, PrepareError> {
    let path = configured.unwrap_or(Path::new(usual));
    let wrong = |source| PrepareError::Directory { what, path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(wrong)?;
    if make {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&path).map_err(wrong)?;
    }
    match path.canonicalize() {
        // Nothing was ever made there: there is nothing to read.
        Err(e) if !make && e.kind() == std::io::ErrorKind::NotFound => Ok(path),
        real => real.map_err(wrong),
    }
}

#[async_trait]
impl Driver for NativeDriver {
    fn name(&self) -> &InstanceName {
        &self.name
    }

    fn is_remote(&self) -> bool {
        false
    }

    async fn prepare(
        &self,
        config: &DriverConfig,
        options: PrepareOptions,
        watch: Watch,
    ) -> Result<Prepared, PrepareError> {
        let node = Arc::new(self.make_node(config, options != PrepareOptions::READ)?);
        let mut prepared = Prepared::default();
        if options.check || options.round_trip {
            let running = watch.phase(Phase::Check);
            prepared.checks = blocking({
                let node = Arc::clone(&node);
                move || doctor::checks(&node)
            })
            .await
            .map_err(|bug| native_platform::StepError::failed(StepKind::Platform, bug))??;
            let missing: Vec<_> = prepared.checks.iter().filter(|c| !c.ok).cloned().collect();
            if !missing.is_empty() {
                return Err(PrepareError::NotReady(missing));
            }
            running.done();
        }
        if watch.cancel().is_cancelled() {
            return Err(PrepareError::Cancelled);
        }
        if options.recover {
            let running = watch.phase(Phase::Recover);
            let (task, quiet) = (Arc::clone(&node), watch.clone());
            let recovered = blocking(move || recover::recover(&task, &quiet, recover::Reach::Certain)).await;
            prepared.recovered =
                recovered.map_err(|bug| native_platform::StepError::failed(StepKind::Platform, bug))??;
            running.done();
        }
        if options.round_trip {
            prepared.checks.extend(doctor::round_trip(&node, &watch).await);
            if let Some(failed) = prepared.checks.iter().find(|c| !c.ok) {
                return Err(PrepareError::NotReady(vec![failed.clone()]));
            }
        }
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(node);
        Ok(prepared)
    }

    fn validate_definition(&self, definition: &Definition) -> Result<Vec<String>, ValidateError> {
        plan::validate(definition, self.node().as_deref().map(|n| &n.config))
    }

    async fn available_capacity(
        &self,
        node_usage: &NodeUsage,
        definition: &Definition,
    ) -> Result<Capacity, CapacityError> {
        self.capacity(&WhatIf { usage: node_usage.clone(), ..WhatIf::default() }, definition).await
    }

    async fn allocate(&self, request: AllocateRequest, watch: Watch) -> Result<Allocated, AllocateError> {
        let node = self.node().ok_or(AllocateCause::Plan(PlanError::NotPrepared))?;
        let made = detached(watch, |watch| allocate::allocate(node, request, watch)).await;
        match made {
            Ok(made) => made,
            Err(bug) => Err(AllocateCause::Bug(bug).into()),
        }
    }

    async fn status(&self, id: &EnvironmentId) -> Result<Status, ObserveError> {
        let (node, id) = (self.node().ok_or(ObserveError::NotPrepared)?, id.clone());
        blocking(move || observe::status(&node, &id)).await.unwrap_or_else(|bug| Err(ObserveError::Bug(bug)))
    }

    async fn task(&self, _name: &str, _options: &serde_json::Value) -> Option<serde_json::Value> {
        None
    }

    async fn deallocate(&self, id: &EnvironmentId, watch: Watch) -> Result<Deallocated, DeallocateError> {
        let (node, id) = (self.node().ok_or(DeallocateError::NotPrepared)?, id.clone());
        let gone = detached(watch, |watch| deallocate::deallocate(node, id, watch)).await;
        gone.unwrap_or_else(|bug| Err(DeallocateError::Bug(bug)))
    }

    async fn plan(&self, request: &AllocateRequest) -> Result<Plan, PlanError> {
        self.node().ok_or(PlanError::NotPrepared)?.dry_run(request)
    }

    async fn capacity(&self, what_if: &WhatIf, definition: &Definition) -> Result<Capacity, CapacityError> {
        let node = self.node().ok_or(CapacityError::NotPrepared)?;
        let (what_if, definition) = (what_if.clone(), definition.clone());
        let told = blocking(move || capacity::capacity(&node, &what_if, &definition)).await;
        told.unwrap_or_else(|bug| Err(native_platform::StepError::failed(StepKind::Platform, bug).into()))
    }

    async fn list(&self) -> Result<Vec<EnvironmentStatus>, ObserveError> {
        let node = self.node().ok_or(ObserveError::NotPrepared)?;
        blocking(move || observe::list(&node)).await.unwrap_or_else(|bug| Err(ObserveError::Bug(bug)))
    }

    async fn inspect(&self, id: &EnvironmentId) -> Result<EnvironmentStatus, ObserveError> {
        let (node, id) = (self.node().ok_or(ObserveError::NotPrepared)?, id.clone());
        blocking(move || observe::inspect(&node, &id)).await.unwrap_or_else(|bug| Err(ObserveError::Bug(bug)))
    }

    fn log_path(&self, id: &EnvironmentId) -> Result<PathBuf, ObserveError> {
        self.node().ok_or(ObserveError::NotPrepared)?.log_path(id)
    }

    async fn logs(&self, id: &EnvironmentId, follow: bool) -> Result<LogReader, ObserveError> {
        let node = self.node().ok_or(ObserveError::NotPrepared)?;
        let path = node.log_path(id)?;
        if !follow {
            return Ok(LogReader::to_the_end(path));
        }
        let id = id.clone();
        Ok(LogReader::following(path, move |stop| async move {
            // Whatever the reason for which it can't be waited for any more: there is nothing more to follow.
            drop(observe::wait(node, id, stop).await);
        }))
    }

    async fn wait(&self, id: &EnvironmentId, cancel: CancellationToken) -> Result<Exit, ObserveError> {
        let node = self.node().ok_or(ObserveError::NotPrepared)?;
        observe::wait(node, id.clone(), cancel).await
    }

    async fn enter(
        &self,
        id: &EnvironmentId,
        command: Enter,
        input: Box<dyn Read + Send>,
        output: OutputSink,
    ) -> Result<i32, ObserveError> {
        let (node, id) = (self.node().ok_or(ObserveError::NotPrepared)?, id.clone());
        let entered = blocking(move || observe::enter(&node, &id, &command, input, output)).await;
        entered.unwrap_or_else(|bug| Err(ObserveError::Bug(bug)))
    }

    async fn audit(&self) -> Result<Audit, AuditError> {
        let node = self.node().ok_or(AuditError::NotPrepared)?;
        blocking(move || observe::audit(&node)).await.unwrap_or_else(|bug| Err(AuditError::Bug(bug)))
    }

    async fn audit_fix(&self, watch: Watch) -> Result<AuditFixed, AuditError> {
        let node = self.node().ok_or(AuditError::NotPrepared)?;
        let fixed = blocking(move || {
            let recovered = recover::recover(&node, &watch, recover::Reach::Asked)?;
            node.platform.sweep()?;
            Ok(AuditFixed { audit: observe::audit(&node)?, recovered })
        });
        fixed.await.unwrap_or_else(|bug| Err(AuditError::Bug(bug)))
    }

    async fn verify(&self, watch: Watch) -> Result<Verified, PrepareError> {
        let node = self
            .node()
            .ok_or_else(|| PrepareError::Config { key: "drivers", message: "the driver is not prepared".to_owned() })?;
        doctor::verify(&node, &watch).await
    }
}
