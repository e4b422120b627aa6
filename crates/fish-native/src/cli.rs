//! The arguments: what can be typed, and nothing of what it does.
//!
//! Names, commands and options here are a contract with scripts; the reference page is made from them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns a label into a throw-away user environment on this host, and back into nothing.
#[derive(Debug, Parser)]
#[command(name = "fish-native", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done and nothing left behind, 2 usage, config or label, 10 host not ready, 11 \
does not fit, 12 image refused, 13 a privileged step failed, 14 something left behind, 15 no such environment. `run` \
and `exec` pass the workload's own exit code through; 125 is then a failure of the driver.")]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The configuration: of the driver, or of a whole Fish node [default: $FISH_NATIVE_CONFIG,
    /// ./fish-native.yml, /etc/fish-native/config.yml; none is fine]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which of the configuration's instances of the driver: `native` or `native/NAME`
    #[arg(long, global = true, value_name = "NAME", default_value = "native")]
    pub instance: String,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more, on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// The shape of what is said on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything that can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an environment, pass the workload's output and exit code through, remove the environment
    Run(RunArgs),
    /// Make an environment, start its workload and return
    Allocate(AllocateArgs),
    /// Stop environments, remove them and prove that nothing is left
    Deallocate(DeallocateArgs),
    /// What one environment is doing
    Status {
        /// Its identifier, as `allocate` printed it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// What all environments of the workspace are doing
    List,
    /// What a workload printed, also while no driver was running
    Logs {
        /// The environment's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// Go on until the workload ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a command inside an environment, as its user
    Exec {
        /// The environment's identifier
        #[arg(value_name = "ID")]
        id: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD", allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// A shell inside an environment, as its user
    Shell {
        /// The environment's identifier
        #[arg(value_name = "ID")]
        id: String,
    },
    /// How many more environments of this label fit on this host
    Capacity(CapacityArgs),
    /// Validate configurations and labels, without touching the host
    Check(CheckArgs),
    /// Verify that this host is ready, with a full round trip
    Doctor,
    /// What is on this host that is ours and belongs to no environment
    Audit {
        /// Remove it
        #[arg(long)]
        fix: bool,
    },
    /// The image cache
    #[command(subcommand)]
    Images(ImagesCommand),
    /// The sudo rules that the service's user needs: print them, or check them
    Sudoers(SudoersArgs),
    /// See the whole life of an environment with an example that is built in
    Demo,
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, or print the main one
    Man {
        /// The directory to write them to
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print the reference page as Markdown instead
        #[arg(long, conflicts_with = "dir", value_enum, value_name = "PAGE")]
        markdown: Option<Page>,
    },
}

/// A page of the reference that is made from the program itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// Commands and options.
    Cli,
    /// Exit codes.
    ExitCodes,
    /// The commands that are run on a host.
    PrivilegedCommands,
}

/// Options of `sudoers`.
#[derive(Debug, Args)]
pub(crate) struct SudoersArgs {
    /// How the rules are written [default: helper; regex with `privilege: sudo-commands`]
    #[arg(long, value_enum, value_name = "STYLE")]
    pub style: Option<SudoersStyle>,
    /// The system that they are for [default: this one]
    #[arg(long, value_enum, value_name = "PLATFORM")]
    pub platform: Option<SudoersPlatform>,
    /// The user that the driver runs as
    #[arg(long, value_name = "NAME", default_value = "_aquarium-fish")]
    pub user: String,
    /// Ask sudo of this host about each command, and run none of them
    #[arg(long)]
    pub check: bool,
}

/// How sudo rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SudoersStyle {
    /// One rule for the root helper, without arguments
    Helper,
    /// One anchored expression for each command (sudo 1.9.10, macOS 14)
    Regex,
    /// The published rules and what is needed beyond them: as good as root
    Wildcard,
}

impl From<SudoersStyle> for native_platform::render::Style {
    fn from(style: SudoersStyle) -> Self {
        match style {
            SudoersStyle::Helper => Self::Helper,
            SudoersStyle::Regex => Self::Regex,
            SudoersStyle::Wildcard => Self::Wildcard,
        }
    }
}

/// The systems that there are rules for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SudoersPlatform {
    /// Linux
    Linux,
    /// macOS
    Macos,
}

/// A label, and what varies from run to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct LabelArgs {
    /// The label: a file, or `-` for standard input
    #[arg(value_name = "LABEL")]
    pub label: PathBuf,
    /// Which of the label's definitions, from 0 [default: the first one of this driver]
    #[arg(long, value_name = "N")]
    pub definition: Option<usize>,
}

/// What an allocation takes beside the label.
#[derive(Debug, Clone, Args)]
pub(crate) struct AllocateArgs {
    /// The label.
    #[command(flatten)]
    pub label: LabelArgs,
    /// One variable of the workload, over the file's and under the label's
    #[arg(short = 'm', value_name = "KEY=VALUE")]
    pub metadata: Vec<String>,
    /// Variables of the workload, as a YAML or JSON mapping
    #[arg(long = "metadata", value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How long it may live, as `1h30m`; negative for no limit
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub lifetime: Option<String>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What to allocate.
    #[command(flatten)]
    pub allocate: AllocateArgs,
    /// Leave the environment there when the workload has ended
    #[arg(long)]
    pub keep: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `deallocate`.
#[derive(Debug, Args)]
pub(crate) struct DeallocateArgs {
    /// Identifiers, as `allocate` printed them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All environments of the workspace
    #[arg(long)]
    pub all: bool,
}

/// Options of `capacity`.
#[derive(Debug, Args)]
pub(crate) struct CapacityArgs {
    /// The label.
    #[command(flatten)]
    pub label: LabelArgs,
    /// Say why not more
    #[arg(long)]
    pub explain: bool,
    /// What if the host had this many CPU threads
    #[arg(long, value_name = "N", help_heading = "What if")]
    pub total_cpu: Option<u32>,
    /// What if the host had this much memory
    #[arg(long, value_name = "GB", help_heading = "What if")]
    pub total_ram: Option<u32>,
    /// What if the workspace had this much space
    #[arg(long, value_name = "GB", help_heading = "What if")]
    pub total_disk: Option<u64>,
    /// What if these definitions were running: a YAML or JSON list of definitions, or of their resources
    #[arg(long, value_name = "FILE", help_heading = "What if")]
    pub usage: Option<PathBuf>,
}

impl CapacityArgs {
    /// Whether the host is replaced altogether, so that it need not be asked.
    pub(crate) fn is_what_if(&self) -> bool {
        self.total_cpu.is_some() || self.total_ram.is_some() || self.total_disk.is_some() || self.usage.is_some()
    }
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files, or `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    pub files: Vec<PathBuf>,
    /// What the files are, where their content does not tell
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// Print the JSON Schema of this kind of file, for editors
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["files", "kind"])]
    pub schema: Option<Kind>,
}

/// The two kinds of files that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A label, or one definition.
    Label,
    /// A configuration of the driver or of a node.
    Config,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImagesCommand {
    /// Fetch an image, or all images of a label, into the cache
    Pull(SourceArgs),
    /// What is in the cache
    List,
    /// Check what is in the cache against its digests
    Verify {
        /// One image: `name` or `name-version`
        name: Option<String>,
    },
    /// Remove from the cache what nothing uses
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Make an image of a directory, of the shape that Aquarium Bait makes
    Pack {
        /// The directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The image's name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Where the image is written
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
    /// Unpack an image, or all images of a label, over a directory, as the calling user
    Unpack {
        /// What to unpack.
        #[command(flatten)]
        source: SourceArgs,
        /// The directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// One image by its address, or a label.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The image's address, or a label file (`-` for standard input)
    #[arg(value_name = "URL|LABEL")]
    pub source: String,
    /// The checksum of the address's image
    #[arg(long, value_name = "ALGO:HEX")]
    pub sum: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["fish-native", "exec", "fish-abcdef", "--", "ls", "--json", "-v"]).unwrap();
        assert!(!cli.global.json);
        assert!(matches!(cli.command, Command::Exec { command, .. } if command == ["ls", "--json", "-v"]));
    }

    #[test]
    fn a_negative_lifetime_is_a_value() {
        let cli = Cli::try_parse_from(["fish-native", "run", "label.yml", "--lifetime", "-1s"]).unwrap();
        assert!(matches!(cli.command, Command::Run(run) if run.allocate.lifetime.as_deref() == Some("-1s")));
    }

    #[test]
    fn variables_may_be_repeated_and_hold_an_equals_sign() {
        let cli =
            Cli::try_parse_from(["fish-native", "run", "l", "-m", "A=1=2", "-m", "B=", "--metadata", "f"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.allocate.metadata, ["A=1=2", "B="]);
        assert_eq!(run.allocate.metadata_file, Some(PathBuf::from("f")));
    }

    #[test]
    fn global_options_go_before_and_after_the_command() {
        for words in [["fish-native", "--json", "list"], ["fish-native", "list", "--json"]] {
            assert!(Cli::try_parse_from(words).unwrap().global.json);
        }
    }
}
