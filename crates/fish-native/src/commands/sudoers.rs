//! `sudoers`: the rules that the service's user needs, rendered or checked.

use std::time::Duration;

use native_config::{DriverConfig, Privilege, Target};
use native_helper::{Host, Settings};
use native_platform::SystemRunner;
use native_platform::command::Site;
use native_platform::render::{RenderError, Rules, render_sudoers};
use native_platform::runner::sudo_permits;
use serde_json::json;

use crate::cli::{SudoersArgs, SudoersPlatform, SudoersStyle};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// How long sudo may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Renders or checks.
pub(crate) fn sudoers(context: &Context, args: &SudoersArgs) -> Result<u8, Failure> {
    let (_, config) = context.config()?;
    let target = match args.platform {
        Some(SudoersPlatform::Linux) => Target::Linux,
        Some(SudoersPlatform::Macos) => Target::Macos,
        None => context.host.target(),
    };
    let here = target == context.host.target();
    let host = if here { context.host.clone() } else { Host::real(target) };
    let style = args.style.unwrap_or(match config.privilege {
        Privilege::SudoCommands if host.table().helper_only.is_none() => SudoersStyle::Regex,
        _ => SudoersStyle::Helper,
    });
    let settings = Settings::from(&config);
    let site = site(&host, here, &settings)?;
    let tool = |name: &str| host.tool(&settings, name);
    let rules =
        Rules { tool: &tool, helper: host.helper(), ..Rules::new(style.into(), &args.user, host.table(), &site) };
    // Also before asking: what can't be rendered can't be installed.
    let text = render_sudoers(&rules).map_err(|error| refused(&error))?;
    if !args.check {
        context.printer.line(text.trim_end());
        let platform = host.table().os;
        context.printer.document(&json!({ "platform": platform, "style": style, "user": args.user, "rules": text }));
        return Ok(Exit::Done.code());
    }
    if !here {
        return Err(Failure::usage(format!("sudo of this host knows nothing of {}", host.table().os))
            .hint(format!("run `fish-native sudoers --check` on {} itself", host.table().os)));
    }
    check(context, &host, &rules, &config, args)
}

fn refused(error: &RenderError) -> Failure {
    match error {
        RenderError::User(_) => Failure::usage("--user").because_of(error),
        RenderError::HelperOnly { .. } => Failure::usage("--style").because_of(error).hint("use `--style helper`"),
        RenderError::Template(_) => Failure::new(Exit::Bug, "sudoers", "render the rules").because_of(error),
    }
}

/// What the rules admit. A group that not every Mac has is looked up, on the Mac.
fn site(host: &Host, here: bool, settings: &Settings) -> Result<Site, Failure> {
    host.site(settings, here).map_err(|group| {
        Failure::usage(format!("the number of group {group} is not known here"))
            .hint("render the rules on the Mac itself, or take the group out of `allowed_groups`")
    })
}

/// Asks sudo about each command; runs none of them.
fn check(
    context: &Context,
    host: &Host,
    rules: &Rules<'_>,
    config: &DriverConfig,
    args: &SudoersArgs,
) -> Result<u8, Failure> {
    let not_ready = |message: String| Failure::new(Exit::NotReady, "sudoers", message);
    let sudo = host.sudo(&Settings::from(config)).map_err(|e| Failure::of(&e))?;
    // Root may do everything, so it asks for the user that the rules are for.
    let user = rustix::process::geteuid().is_root().then_some(args.user.as_str());
    let mut asked: Vec<(&str, Vec<String>)> = rules
        .commands()
        .into_iter()
        .map(|row| {
            let mut argv = vec![(rules.tool)(row.tool).display().to_string()];
            argv.extend(row.example(rules.site));
            (row.id, argv)
        })
        .collect();
    if asked.is_empty() {
        asked.push(("helper", vec![rules.helper.display().to_string()]));
    }
    let mut answers = Vec::new();
    let mut missing = 0;
    for (id, argv) in &asked {
        let allowed = sudo_permits(&SystemRunner::real(), &sudo, user, argv, PATIENCE)
            .map_err(|e| not_ready("ask sudo".to_owned()).because_of(&e))?;
        missing += usize::from(!allowed);
        let mark = if allowed { "allowed" } else { "MISSING" };
        context.printer.line(format_args!("{mark} {id:<20} {}", argv.join(" ")));
        answers.push(json!({ "id": id, "command": argv.join(" "), "allowed": allowed }));
    }
    context.printer.document(&json!({ "ready": missing == 0, "commands": answers }));
    if missing == 0 {
        return Ok(Exit::Done.code());
    }
    context.printer.hint(format!(
        "{missing} of {} commands have no rule: install what `fish-native sudoers` prints as a file of /etc/sudoers.d",
        asked.len()
    ));
    Ok(Exit::NotReady.code())
}
