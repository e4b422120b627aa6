//! The walk over a parsed template: how many steps it can take at most, and which names it asks for.

use gotmpl::parse::{CommandNode, Expr, ListNode, Node, PipeNode};
use std::collections::BTreeMap;

/// The name of the outermost template.
pub(crate) const ROOT: &str = "value";

/// Steps of one run, a `range` body counted once: rounds have a bound of their own.
const MAX_STEPS: u64 = 2_000;

#[derive(Debug)]
pub(crate) enum WalkError {
    UnknownTemplate(String),
    Recursive(String),
    TooManySteps,
    UnknownField(String),
    UnknownDisk(String),
    UnknownFunction(String),
}

/// The functions of Go's text/template. The engine itself finds an unknown one only when a run comes to it.
const FUNCTIONS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "urlquery",
];

/// What is known about `.` at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dot {
    Root,
    Disks,
    Unknown,
}

/// Counts the steps with every call of a named template expanded.
pub(crate) fn check_steps(template: &gotmpl::Template) -> Result<(), WalkError> {
    let mut costs = BTreeMap::new();
    let mut total = cost_of(template, ROOT, &mut costs)?;
    // Templates that nothing calls are checked as well: they are mistakes just the same.
    for name in template.templates() {
        total = total.max(cost_of(template, name, &mut costs)?);
    }
    if total > MAX_STEPS { Err(WalkError::TooManySteps) } else { Ok(()) }
}

/// `None` in `costs` marks a template that is being counted: to meet it again is a recursion.
fn cost_of(
    template: &gotmpl::Template,
    name: &str,
    costs: &mut BTreeMap<String, Option<u64>>,
) -> Result<u64, WalkError> {
    match costs.get(name) {
        Some(Some(cost)) => return Ok(*cost),
        Some(None) => return Err(WalkError::Recursive(name.to_owned())),
        None => {}
    }
    // Each level of calls is a level of our own stack; more levels than steps can't pass anyway.
    if costs.len() > 100 {
        return Err(WalkError::TooManySteps);
    }
    let Some(list) = template.lookup(name) else {
        // An empty body is not kept by the engine.
        return if name == ROOT { Ok(0) } else { Err(WalkError::UnknownTemplate(name.to_owned())) };
    };
    costs.insert(name.to_owned(), None);
    let cost = list_cost(template, list, costs)?;
    costs.insert(name.to_owned(), Some(cost));
    Ok(cost)
}

fn list_cost(
    template: &gotmpl::Template,
    list: &ListNode,
    costs: &mut BTreeMap<String, Option<u64>>,
) -> Result<u64, WalkError> {
    let mut total = 0u64;
    for node in &list.nodes {
        let cost = match node {
            Node::List(list) => list_cost(template, list, costs)?,
            Node::Action(action) => pipe_cost(&action.pipe)?,
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                let mut cost = pipe_cost(&branch.pipe)?.saturating_add(list_cost(template, &branch.body, costs)?);
                if let Some(body) = &branch.else_body {
                    cost = cost.saturating_add(list_cost(template, body, costs)?);
                }
                cost
            }
            Node::Template(call) => {
                let pipe = call.pipe.as_ref().map_or(Ok(0), pipe_cost)?;
                pipe.saturating_add(cost_of(template, &call.name, costs)?)
            }
            Node::Define(define) => list_cost(template, &define.body, costs)?,
            Node::Text(_) | Node::Break(_) | Node::Continue(_) => 0,
        };
        total = total.saturating_add(cost).saturating_add(1);
    }
    Ok(total)
}

fn pipe_cost(pipe: &PipeNode) -> Result<u64, WalkError> {
    let mut total = 1u64;
    for expr in pipe.commands.iter().flat_map(|command| &command.args) {
        total = total.saturating_add(expr_cost(expr)?);
    }
    Ok(total)
}

fn expr_cost(expr: &Expr) -> Result<u64, WalkError> {
    match expr {
        Expr::Pipe(_, pipe) => pipe_cost(pipe),
        Expr::Chain(_, inner, _) => Ok(1 + expr_cost(inner)?),
        Expr::Identifier(_, name) if !FUNCTIONS.contains(&name.as_str()) => {
            Err(WalkError::UnknownFunction(crate::names::shorten(name)))
        }
        _ => Ok(1),
    }
}

/// Whether the last piece of the outermost template is a text that ends so.
pub(crate) fn ends_with(template: &gotmpl::Template, mark: &str) -> bool {
    let last = template.lookup(ROOT).and_then(|list| list.nodes.last());
    matches!(last, Some(Node::Text(text)) if text.text.ends_with(mark))
}

/// Looks for fields and disks that don't exist, in every branch.
pub(crate) fn check_names(template: &gotmpl::Template, is_disk: impl Fn(&str) -> bool) -> Result<(), WalkError> {
    let names = Names { is_disk: &is_disk };
    match template.lookup(ROOT) {
        // Inside a named template `.` is whatever the caller gave, so only the run itself can tell.
        Some(list) => names.list(list, Dot::Root),
        None => Ok(()),
    }
}

struct Names<'a> {
    is_disk: &'a dyn Fn(&str) -> bool,
}

impl Names<'_> {
    fn list(&self, list: &ListNode, dot: Dot) -> Result<(), WalkError> {
        for node in &list.nodes {
            match node {
                Node::List(list) => self.list(list, dot)?,
                Node::Action(action) => self.pipe(&action.pipe, dot)?,
                Node::If(branch) => {
                    self.pipe(&branch.pipe, dot)?;
                    self.list(&branch.body, dot)?;
                    self.else_body(branch.else_body.as_ref(), dot)?;
                }
                Node::With(branch) | Node::Range(branch) => {
                    self.pipe(&branch.pipe, dot)?;
                    let inner = if matches!(node, Node::With(_)) { known(&branch.pipe, dot) } else { Dot::Unknown };
                    self.list(&branch.body, inner)?;
                    self.else_body(branch.else_body.as_ref(), dot)?;
                }
                Node::Template(call) => {
                    if let Some(pipe) = &call.pipe {
                        self.pipe(pipe, dot)?;
                    }
                }
                Node::Define(_) | Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
            }
        }
        Ok(())
    }

    fn else_body(&self, body: Option<&ListNode>, dot: Dot) -> Result<(), WalkError> {
        body.map_or(Ok(()), |body| self.list(body, dot))
    }

    fn pipe(&self, pipe: &PipeNode, dot: Dot) -> Result<(), WalkError> {
        pipe.commands.iter().try_for_each(|command| self.command(command, dot))
    }

    fn command(&self, command: &CommandNode, dot: Dot) -> Result<(), WalkError> {
        for arg in &command.args {
            self.expr(arg, dot)?;
        }
        // `index .Disks "name"`
        if let [Expr::Identifier(_, function), of, Expr::String(_, name), ..] = command.args.as_slice()
            && *function == "index"
            && known_expr(of, dot) == Dot::Disks
            && !(self.is_disk)(name)
        {
            return Err(WalkError::UnknownDisk(name.to_string()));
        }
        Ok(())
    }

    fn expr(&self, expr: &Expr, dot: Dot) -> Result<(), WalkError> {
        match expr {
            Expr::Field(_, path) => self.path(path.iter().map(AsRef::as_ref), dot),
            Expr::Variable(_, name, path) if *name == "$" => self.path(path.iter().map(AsRef::as_ref), Dot::Root),
            Expr::Pipe(_, pipe) => self.pipe(pipe, dot),
            Expr::Chain(_, inner, path) => {
                self.expr(inner, dot)?;
                self.path(path.iter().map(AsRef::as_ref), known_expr(inner, dot))
            }
            _ => Ok(()),
        }
    }

    fn path<'p>(&self, mut path: impl Iterator<Item = &'p str>, from: Dot) -> Result<(), WalkError> {
        let disk = match from {
            Dot::Unknown => return Ok(()),
            Dot::Disks => path.next(),
            Dot::Root => match path.next() {
                Some("Disks") => path.next(),
                Some("User") | None => return Ok(()),
                Some(other) => return Err(WalkError::UnknownField(other.to_owned())),
            },
        };
        match disk {
            Some(disk) if !(self.is_disk)(disk) => Err(WalkError::UnknownDisk(disk.to_owned())),
            _ => Ok(()),
        }
    }
}

/// What `.` becomes inside `{{ with PIPE }}`.
fn known(pipe: &PipeNode, dot: Dot) -> Dot {
    match pipe.commands.as_slice() {
        [command] if command.args.len() == 1 => known_expr(&command.args[0], dot),
        _ => Dot::Unknown,
    }
}

fn known_expr(expr: &Expr, dot: Dot) -> Dot {
    let (from, path) = match expr {
        Expr::Dot(_) => return dot,
        Expr::Field(_, path) => (dot, path),
        Expr::Variable(_, name, path) if *name == "$" => (Dot::Root, path),
        Expr::Pipe(_, pipe) => return known(pipe, dot),
        _ => return Dot::Unknown,
    };
    match (from, path.as_slice()) {
        (from, []) => from,
        (Dot::Root, [only]) if *only == "Disks" => Dot::Disks,
        _ => Dot::Unknown,
    }
}
