//! Exit codes: the one table, which the reference page is made from.

/// How the program ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Exit {
    /// Done, and nothing left behind.
    Done,
    /// A bug of ours.
    Bug,
    /// Usage, configuration or label is wrong.
    Usage,
    /// A tool, a right or a kernel feature is missing.
    NotReady,
    /// Capacity or node filter.
    DoesNotFit,
    /// Download, checksum or archive.
    ImageRefused,
    /// A privileged step failed.
    StepFailed,
    /// Something was left behind.
    LeftBehind,
    /// There is no such environment.
    Absent,
    /// Ctrl-C, after cleaning up.
    Interrupted,
    /// SIGTERM, after cleaning up.
    Terminated,
}

/// What `run` and `exec` end with when the driver itself fails, so that it is not taken for the workload's code.
pub(crate) const DRIVER_FAILED: u8 = 125;

impl Exit {
    /// All of them, in the table's order.
    pub(crate) const ALL: [Self; 11] = [
        Self::Done,
        Self::Bug,
        Self::Usage,
        Self::NotReady,
        Self::DoesNotFit,
        Self::ImageRefused,
        Self::StepFailed,
        Self::LeftBehind,
        Self::Absent,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::NotReady => 10,
            Self::DoesNotFit => 11,
            Self::ImageRefused => 12,
            Self::StepFailed => 13,
            Self::LeftBehind => 14,
            Self::Absent => 15,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// What it means, for the reference page.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, and nothing left behind",
            Self::Bug => "a bug of fish-native: the message says where to report it",
            Self::Usage => "usage, configuration or label is wrong",
            Self::NotReady => "the host is not ready: a tool, a right or a kernel feature is missing",
            Self::DoesNotFit => "it does not fit: capacity or node filter",
            Self::ImageRefused => "the image is refused: download, checksum or archive",
            Self::StepFailed => "a privileged step failed; what it had made is removed again",
            Self::LeftBehind => "something was left behind; every item is named",
            Self::Absent => "there is no such environment",
            Self::Interrupted => "interrupted (Ctrl-C), after cleaning up",
            Self::Terminated => "terminated (SIGTERM), after cleaning up",
        }
    }

    /// What `run` and `exec` end with for it: these pass a workload's own code through, so that only what can
    /// not be mistaken for one keeps its number.
    pub(crate) const fn beside_a_workload(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::LeftBehind | Self::Interrupted | Self::Terminated => self.code(),
            Self::Bug
            | Self::Usage
            | Self::NotReady
            | Self::DoesNotFit
            | Self::ImageRefused
            | Self::StepFailed
            | Self::Absent => DRIVER_FAILED,
        }
    }
}

/// The table as a page of the reference.
pub(crate) fn markdown() -> String {
    let mut page = "# Exit codes\n\n| code | meaning |\n| --- | --- |\n".to_owned();
    for exit in Exit::ALL {
        page.push_str(&format!("| {} | {} |\n", exit.code(), exit.meaning()));
    }
    page.push_str(&format!(
        "\n`run` and `exec` pass the workload's own exit code through (128 + n if signal n ended it). When the driver\n\
         itself fails they end with {DRIVER_FAILED} instead, or with {} if something was left behind; with `--json` the\n\
         document's `error.code` is the number of the table in either case. A command line that can't be understood\n\
         ends with {} for every command.\n",
        Exit::LeftBehind.code(),
        Exit::Usage.code(),
    ));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once() {
        let mut codes: Vec<_> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 10, 11, 12, 13, 14, 15, 130, 143]);
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        for exit in Exit::ALL {
            assert!(markdown().contains(&format!("| {} | {} |", exit.code(), exit.meaning())));
        }
    }

    #[test]
    fn beside_a_workload_only_unmistakable_codes_stay() {
        assert_eq!(Exit::Usage.beside_a_workload(), 125);
        assert_eq!(Exit::LeftBehind.beside_a_workload(), 14);
        assert_eq!(Exit::Interrupted.beside_a_workload(), 130);
        assert_eq!(Exit::Done.beside_a_workload(), 0);
    }
}
