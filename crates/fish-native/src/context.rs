//! [`Context`]: what every command starts from: the printer, the signals, the configuration, the driver.

use std::sync::Arc;

use native_config::{DriverConfig, EnvironmentId, InstanceName};
use native_driver::{AllocateRequest, Driver, NativeDriver, PrepareOptions, Recovered};
use native_helper::Host;
use native_platform::Platform;

use crate::cli::{AllocateArgs, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;
use crate::printer::Printer;
use crate::watch::{Stop, watch};

/// What every command starts from.
#[derive(Debug)]
pub(crate) struct Context {
    /// What the driver works on.
    pub host: Host,
    /// Standard output and standard error.
    pub printer: Printer,
    /// The signals.
    pub stop: Stop,
    /// Options of every command.
    pub global: Global,
}

impl Context {
    /// The instance that is asked for and its configuration. Warnings are printed.
    ///
    /// # Errors
    /// When the configuration is wrong or has no such instance.
    pub(crate) fn config(&self) -> Result<(InstanceName, DriverConfig), Failure> {
        load::config(self.host.target(), &self.printer, self.global.config.as_deref(), &self.global.instance)
    }

    /// The driver, prepared.
    ///
    /// # Errors
    /// When the configuration is wrong or the host is not ready.
    pub(crate) async fn driver(&self, options: PrepareOptions) -> Result<Arc<dyn Driver>, Failure> {
        let (name, config) = self.config()?;
        self.driver_of(name, &config, options).await
    }

    /// The driver of a configuration, prepared.
    ///
    /// # Errors
    /// When the host is not ready.
    pub(crate) async fn driver_of(
        &self,
        name: InstanceName,
        config: &DriverConfig,
        options: PrepareOptions,
    ) -> Result<Arc<dyn Driver>, Failure> {
        let platform = native_helper::open(&self.host, config).map_err(|e| Failure::of(&e))?;
        self.driver_on(name, config, platform, options).await
    }

    /// The driver of a configuration on a platform, prepared.
    ///
    /// # Errors
    /// When the host is not ready.
    pub(crate) async fn driver_on(
        &self,
        name: InstanceName,
        config: &DriverConfig,
        platform: Arc<dyn Platform>,
        options: PrepareOptions,
    ) -> Result<Arc<dyn Driver>, Failure> {
        self.stop.listen(&self.printer)?;
        let driver = NativeDriver::new(name, platform);
        let prepared = driver.prepare(config, options, watch(&self.printer, &self.stop)).await?;
        self.recovered(&prepared.recovered);
        Ok(Arc::new(driver))
    }

    /// Says what was left by earlier processes.
    pub(crate) fn recovered(&self, recovered: &Recovered) {
        for id in recovered.reverted.iter().chain(&recovered.purged) {
            self.printer.note(format_args!("removed {id}, which an earlier process had left half way"));
        }
        for kept in &recovered.kept {
            self.printer.warning(format_args!("{}: {}", kept.identifier, kept.message));
            if let Some(hint) = &kept.hint {
                self.printer.hint(hint);
            }
        }
    }

    /// The definition to allocate, with its metadata.
    ///
    /// # Errors
    /// When the label, the metadata or the lifetime is wrong.
    pub(crate) fn request(&self, instance: &InstanceName, args: &AllocateArgs) -> Result<AllocateRequest, Failure> {
        let lifetime = match args.lifetime.as_deref().map(str::parse) {
            None => None,
            Some(Ok(lifetime)) => Some(lifetime),
            Some(Err(error)) => return Err(Failure::usage("--lifetime").because_of(&error)),
        };
        let metadata = load::metadata(&self.printer, args.metadata_file.as_deref(), &args.metadata)?;
        let label = load::label(self.host.target(), &self.printer, &args.label.label)?;
        let definition = load::definition(&label, instance, args.label.definition)?;
        Ok(AllocateRequest { definition, metadata, label_metadata: label.metadata, lifetime })
    }

    /// An identifier as it is typed.
    ///
    /// # Errors
    /// What is not an identifier is no environment's.
    pub(crate) fn id(&self, text: &str) -> Result<EnvironmentId, Failure> {
        text.parse().map_err(|_| {
            Failure::new(Exit::Absent, "status", format!("there is no environment {text:?}"))
                .hint("an identifier looks like fish-abcdef; `fish-native list` shows what there is")
        })
    }
}
