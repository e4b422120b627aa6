//! The kill matrix on the real host: every call that changes it × who dies, or which error it returns × a restart, a
//! second driver at the same time or a reboot. Each case ends clean, or the command says what is stuck and the next one
//! removes it.
//!
//! A run takes every fifth call, with who dies and what follows rotating. `FISH_MATRIX=N` takes every Nth, and
//! `FISH_MATRIX=full` every call with every combination (an hour or so). Each test prints
//! `matrix: N cases: N clean, N stuck`.

use std::fmt::Write as _;
use std::time::Duration;

use e2e::{Bench, Call, KNOWN, Outcome, Role, Traced, Verdict, binary, say, trace};

/// A workload that stays.
const STAY: &str = "#!/bin/sh\nsleep 600\n";
/// Errors that a call may return: a full disk, a broken one, no more files, no more memory.
const ERRORS: [(i32, &str); 4] = [(28, "ENOSPC"), (5, "EIO"), (24, "EMFILE"), (12, "ENOMEM")];
/// Calls that don't fail for these reasons.
const SOUND: [&str; 3] = ["wait", "kill", "write to a pipe"];
/// Whether a call is not one that fails here: for none of these reasons, or a thread that the driver's runtime starts.
/// tokio panics where it can't have its first thread of a kind (`Builder::max_blocking_threads`), which is no call of ours.
fn is_sound(call: &Call) -> bool {
    SOUND.contains(&call.name) || call.name == "fork" && call.role == Role::Driver
}

/// The exit code of `LeftBehind`.
const STUCK: i32 = 14;
/// For how long a second driver runs while the first is stopped in the middle of a call.
const BESIDE: Duration = Duration::from_millis(150);

/// What goes wrong at the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Fail,
}

/// What comes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// A new process removes what is left.
    Restart,
    /// Another driver has begun while the first one is stopped in the middle of the call.
    Second,
    /// The machine starts anew: everybody dies, and the kernel has another boot id.
    Reboot,
}

/// Which command it goes wrong in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Allocate,
    Deallocate,
    /// The removal of what a killed removal left.
    Again,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    clean: usize,
    stuck: usize,
    wrong: Vec<String>,
}

struct Matrix {
    bench: Bench,
    label: String,
    phase: Phase,
    fault: Fault,
    tally: Tally,
}

/// A point in the run and what is done there.
#[derive(Debug, Clone, Copy)]
struct Case {
    call: usize,
    /// Rotates who dies or which error.
    variant: usize,
    then: Then,
}

impl Matrix {
    fn traced(&self, args: &[&str], ask: impl FnMut(&Call) -> Verdict) -> Traced {
        let (program, config) = (binary(), self.bench.config());
        let text = |path: &std::path::Path| path.to_str().expect("the suite's paths are text").to_owned();
        let (program, config) = (text(&program), text(&config));
        let all: Vec<&str> = [program.as_str(), "--config", config.as_str()].iter().chain(args).copied().collect();
        trace(self.bench.dir.path(), &all, ask)
    }

    fn everyone(_: &Call) -> Verdict {
        Verdict::Kill(vec![Role::Driver, Role::Helper, Role::Keeper, Role::First])
    }

    /// One case; false when the run has fewer calls.
    fn case(&mut self, case: Case) -> bool {
        let args: Vec<&str> = match self.phase {
            Phase::Allocate => vec!["allocate", &self.label],
            Phase::Deallocate | Phase::Again => vec!["deallocate", "--all"],
        };
        if self.phase != Phase::Allocate {
            self.bench.fish(&["allocate", &self.label]).code(0);
        }
        if self.phase == Phase::Again {
            // In the middle of what a removal does.
            self.traced(&args, |call| if call.number == 100 { Self::everyone(call) } else { Verdict::Go });
        }
        let mut hit = None;
        let mut second = None;
        let (fault, bench) = (self.fault, &self.bench);
        let traced = self.traced(&args, |call| {
            // An error is for the first call from there on that can have one.
            let wanted = call.number == case.call
                || fault == Fault::Fail && hit.is_none() && call.number > case.call && !is_sound(call);
            if !wanted || fault == Fault::Fail && is_sound(call) {
                return Verdict::Go;
            }
            let (verdict, what) = match fault {
                Fault::Kill => {
                    let mut victims: Vec<Vec<Role>> = vec![call.alive.clone()];
                    victims.extend(call.alive.iter().map(|role| vec![*role]));
                    let variant = if case.then == Then::Reboot { 0 } else { case.variant };
                    let who = victims[variant % victims.len()].clone();
                    let what = format!("{who:?} killed");
                    (Verdict::Kill(who), what)
                }
                Fault::Fail => {
                    let (number, name) = ERRORS[case.variant % ERRORS.len()];
                    (Verdict::Fail(number), name.to_owned())
                }
            };
            hit = Some(format!("call {} ({} by {:?}): {what}", call.number, call.name, call.role));
            if case.then == Then::Second {
                // On a thread of its own: what is started on the tracer's is the tracer's to wait for.
                let start = || bench.start(&["deallocate", "--all"]);
                second = std::thread::scope(|threads| threads.spawn(start).join().ok());
                std::thread::sleep(BESIDE);
            }
            verdict
        });
        let second = second.map(e2e::Running::finish);
        let Some(what) = hit else {
            // The run ended before; what it made goes.
            bench.fish(&["deallocate", "--all"]).code(0);
            return false;
        };
        self.judge(&format!("{what}, {:?}", case.then), case.then, &traced.outcome, second.as_ref());
        true
    }

    /// `deallocate --all` by a new process, on a kernel that has started anew or on this one.
    fn removal(&self, then: Then) -> Outcome {
        if then != Then::Reboot {
            return self.bench.fish(&["deallocate", "--all"]);
        }
        self.bench.after_a_reboot(&["deallocate", "--all"])
    }

    fn judge(&mut self, what: &str, then: Then, outcome: &Outcome, second: Option<&Outcome>) {
        self.tally.cases += 1;
        let mut wrong = String::new();
        let mut stuck = false;
        for out in [Some(outcome), second].into_iter().flatten() {
            if out.stderr.contains("panicked") || out.code == 1 || out.code == 101 {
                let _ = write!(wrong, " a bug: {out:?};");
            }
            stuck |= out.code == STUCK;
        }
        // A command that ends by itself has an answer; only success leaves an environment, if it was to make one.
        if self.fault == Fault::Fail && self.phase == Phase::Allocate && ![0, STUCK].contains(&outcome.code) {
            let left = self.bench.left(false);
            if !left.is_empty() {
                let _ = write!(wrong, " it said {} but left {left:?};", outcome.code);
            }
        }
        let mut last = self.removal(then);
        if last.code == STUCK {
            stuck = true;
            last = self.bench.fish(&["audit", "--fix"]);
        }
        if last.code != 0 {
            let _ = write!(wrong, " the next command: {last:?};");
        }
        let left = self.bench.left(true);
        if !left.is_empty() {
            let _ = write!(wrong, " left {left:?};");
        }
        if !wrong.is_empty() {
            let said = format!("{what}:{wrong} it had said {} {}", outcome.code, outcome.stderr);
            say(&format!("wrong: {said}"));
            self.tally.wrong.push(said);
            self.bench.fish(&["audit", "--fix"]);
        } else if stuck {
            self.tally.stuck += 1;
        } else {
            self.tally.clean += 1;
        }
    }
}

#[track_caller]
fn matrix(phase: Phase, fault: Fault, first: usize) {
    if !KNOWN {
        say("skipped: the calls of this machine's architecture are not known");
        return;
    }
    let Some(bench) = Bench::new() else { return };
    let label = bench.label(STAY);
    // The image is fetched once; the cases are about what comes after.
    bench.fish(&["run", &label, "--lifetime", "1s"]);
    let mut matrix = Matrix { bench, label, phase, fault, tally: Tally::default() };
    let wanted = std::env::var("FISH_MATRIX").unwrap_or_default();
    let full = wanted == "full";
    let (step, variants) = if full { (1, ERRORS.len().max(5)) } else { (wanted.parse().unwrap_or(5).max(1), 1) };
    let mut call = if full { 0 } else { first };
    'calls: for turn in 0.. {
        for n in 0..variants {
            // Who dies rotates more slowly than what follows, so that all of them meet.
            let variant = if full { n } else { turn / 3 };
            let all = [Then::Restart, Then::Second, Then::Reboot];
            let thens = match (fault, full) {
                (Fault::Fail, _) => &all[..1],
                (Fault::Kill, true) => &all[..],
                (Fault::Kill, false) => &all[turn % 3..=turn % 3],
            };
            for then in thens {
                if !matrix.case(Case { call, variant, then: *then }) {
                    break 'calls;
                }
                assert!(matrix.tally.wrong.len() < 10, "{:#?}", matrix.tally);
            }
        }
        call += step;
    }
    let Tally { cases, clean, stuck, wrong } = &matrix.tally;
    say(&format!("matrix: {phase:?}, {fault:?}: {cases} cases: {clean} clean, {stuck} stuck"));
    // A second removal has less to do.
    let least = if matches!(phase, Phase::Again) { 60 } else { 100 };
    assert!(*cases > least / step, "{cases} cases are not a matrix");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(matrix.bench.left(true), [""; 0]);
}

#[test]
fn allocate_is_killed_at_any_call() {
    matrix(Phase::Allocate, Fault::Kill, 0);
}

#[test]
fn deallocate_is_killed_at_any_call() {
    matrix(Phase::Deallocate, Fault::Kill, 1);
}

#[test]
fn a_second_removal_is_killed_at_any_call() {
    matrix(Phase::Again, Fault::Kill, 2);
}

#[test]
fn any_call_of_allocate_fails() {
    matrix(Phase::Allocate, Fault::Fail, 3);
}

#[test]
fn any_call_of_deallocate_fails() {
    matrix(Phase::Deallocate, Fault::Fail, 4);
}
