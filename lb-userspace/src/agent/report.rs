//! Turns what happens into log lines and events, each once, and into the status.

use super::status::{
    AgentInfo, HookInfo, ProblemInfo, SharedStatus, SocketInfo, SourceInfo, SyncInfo,
};
use crate::desired::{Problem, ServicePortKey};
use crate::reconcile::{ApplyReport, Refusal};
use crate::source::{Event, Events};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keeps the status up to date and logs what is new in it.
pub(super) struct Report {
    status: Arc<SharedStatus>,
    events: Events,
    /// What has been logged and still holds.
    known: BTreeSet<String>,
    problems: Vec<ProblemInfo>,
    /// Ports that can't be listened on.
    unheard: Vec<ProblemInfo>,
    warnings: Warnings,
    errors: Errors,
}

/// Reason and action of an event: an object is not in force as it is.
const REFUSED: (&str, &str) = ("Refused", "Program");
/// A port for load balancers can't be listened on; kube-proxy's words.
const UNHEARD: (&str, &str) = ("FailedToStartServiceHealthcheck", "Listen");

/// What may not be as intended, by where it comes from.
#[derive(Default)]
struct Warnings {
    lasting: Option<String>,
    node: Option<String>,
    held: Option<String>,
    system: Vec<String>,
    idle: Option<String>,
    sockets: Option<String>,
    stale: Option<String>,
    check: Option<String>,
}

/// What keeps the agent from its work, by where it comes from.
#[derive(Default)]
struct Errors {
    source: Option<String>,
    network: Option<String>,
    apply: Option<String>,
    hooks: Vec<String>,
}

impl Report {
    /// Nothing to report yet.
    pub(super) fn new(status: Arc<SharedStatus>, events: Events) -> Self {
        Self {
            status,
            events,
            known: BTreeSet::new(),
            problems: Vec::new(),
            unheard: Vec::new(),
            warnings: Warnings::default(),
            errors: Errors::default(),
        }
    }

    /// Who the agent is.
    pub(super) fn set_agent(&self, agent: AgentInfo) {
        self.status.update(|status| status.agent = agent);
    }

    /// What holds as long as the agent runs.
    pub(super) fn set_lasting_warnings(&mut self, warning: Option<String>) {
        self.warnings.lasting = warning;
        self.publish();
    }

    /// The Node object that is not there.
    pub(super) fn set_missing_node(&mut self, name: Option<&str>) {
        self.warnings.node = name.map(|name| {
            format!("no Node object is named {name}: uplinks are told from other interfaces alone")
        });
        self.publish();
    }

    /// How many Service ports stay as an earlier agent left them, for want of
    /// readable objects.
    pub(super) fn set_held(&mut self, count: usize) {
        self.warnings.held = (count > 0).then(|| {
            format!(
                "{count} Service ports stay as they were before the start, as not all objects \
                 can be read and those that can say nothing of them"
            )
        });
        self.publish();
    }

    /// What the system is not set up for.
    pub(super) fn set_warnings(&mut self, warnings: Vec<String>) {
        self.warnings.system = warnings;
        self.publish();
    }

    /// The kernel was brought up to date, as far as everything fits.
    pub(super) fn set_sync(&mut self, sync: SyncInfo, problems: &[Problem], applied: &ApplyReport) {
        let refused = &applied.refused;
        if sync.changed > 0 {
            let milliseconds = sync.duration_seconds * 1e3;
            tracing::info!("{} Service ports changed in {milliseconds:.1} ms", sync.changed);
        }
        let named = |key: &ServicePortKey| format!("{key} ({})", key.protocol);
        self.problems = problems.iter().cloned().map(Into::into).collect();
        self.problems.extend(
            refused
                .iter()
                .map(|(key, refusal)| ProblemInfo::refused(&named(key), &refusal.to_string())),
        );
        // A map that is full is not the object's fault, so it is ours.
        self.errors.apply = refused
            .iter()
            .find(|(_, refusal)| !matches!(refusal, Refusal::Taken { .. }))
            .map(|(key, refusal)| format!("Service {} is refused: {refusal}", named(key)));
        if let Some((what, refusal)) = applied.unfit.first() {
            self.errors.apply = Some(format!("the {what} stay as they were: {refusal}"));
        }
        self.status.update(|status| status.last_sync = Some(sync));
        self.publish();
    }

    /// Which ports can't be listened on.
    pub(super) fn set_unheard(&mut self, problems: Vec<Problem>) {
        self.unheard = problems.into_iter().map(Into::into).collect();
        self.publish();
    }

    /// The kernel could not be brought up to date.
    pub(super) fn set_apply_error(&mut self, error: String) {
        self.errors.apply = Some(error);
        self.publish();
    }

    /// How the source is.
    pub(super) fn set_source(&self, source: SourceInfo) {
        self.status.update(|status| status.source = source);
    }

    /// Whether the source can be read.
    pub(super) fn set_source_error(&mut self, error: Option<String>) {
        self.errors.source = error.map(|error| format!("{error}; the Services stay as they were"));
        self.publish();
    }

    /// Whether the network can be followed.
    pub(super) fn set_network_error(&mut self, error: Option<String>) {
        self.errors.network = error;
        self.publish();
    }

    /// The hooks, and what could not be done about them.
    pub(super) fn set_hooks(&mut self, hooks: Vec<HookInfo>, failures: Vec<String>) {
        self.errors.hooks = failures;
        for hook in hooks.iter().filter(|hook| hook.failed) {
            let HookInfo { interface, hook, note, .. } = hook;
            let note = note.as_deref().unwrap_or("not attached");
            let text = format!("interface {interface}: {hook}: {note}");
            let covered = |failure: &String| failure.contains(note) && failure.contains(interface);
            if !self.errors.hooks.iter().any(covered) {
                self.errors.hooks.push(text);
            }
        }
        self.warnings.idle = hooks.iter().all(|hook| hook.mode.is_none()).then(|| {
            "no interface has the programs attached, so nothing is served: no \
             interface of this namespace is fit, or none that `--interface` names"
                .to_owned()
        });
        self.status.update(|status| status.hooks = hooks);
        self.publish();
    }

    /// The hooks of sockets. Without them the node's own processes go without
    /// Services, and nobody else.
    pub(super) fn set_sockets(&mut self, sockets: SocketInfo) {
        self.warnings.sockets = sockets
            .note
            .as_ref()
            .map(|note| format!("processes of this node can't reach Services: {note}"));
        self.status.update(|status| status.sockets = sockets);
        self.publish();
    }

    /// Whether UDP sockets can be told that their backend is gone.
    pub(super) fn set_stale_error(&mut self, error: Option<String>) {
        self.warnings.stale = error.map(|error| {
            format!(
                "connected UDP sockets of this node stay with backends that are gone, until they \
                 are closed: {error}"
            )
        });
        self.publish();
    }

    /// Whether hooks and pins can be compared with what they should be.
    pub(super) fn set_check_error(&mut self, error: Option<String>) {
        self.warnings.check = error.map(|error| {
            format!("what somebody else removes or alters may not be put right: {error}")
        });
        self.publish();
    }

    /// Whether a hook is missing that should be there.
    pub(super) const fn has_hook_failures(&self) -> bool {
        !self.errors.hooks.is_empty()
    }

    /// Logs what is new and what is over, and updates the status.
    fn publish(&mut self) {
        let Warnings { lasting, node, held, system, idle, sockets, stale, check } = &self.warnings;
        let warnings = lasting.iter().chain(node).chain(held).chain(system).chain(idle);
        let warnings: Vec<String> =
            warnings.chain(sockets).chain(stale).chain(check).cloned().collect();
        let Errors { source, network, apply, hooks } = &self.errors;
        let reasons: Vec<String> =
            source.iter().chain(network).chain(apply).chain(hooks).cloned().collect();
        let mut now = BTreeSet::new();
        for reason in &reasons {
            if !self.known.contains(reason) {
                tracing::error!("{reason}");
            }
            now.insert(reason.clone());
        }
        for warning in &warnings {
            if !self.known.contains(warning) {
                tracing::warn!("{warning}");
            }
            now.insert(warning.clone());
        }
        let problems: Vec<ProblemInfo> =
            self.problems.iter().chain(&self.unheard).cloned().collect();
        let mut notes: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (index, problem) in problems.iter().enumerate() {
            if now.insert(problem.text.clone()) && !self.known.contains(&problem.text) {
                let what = if problem.is_error() { "refused" } else { "in force with a warning" };
                tracing::warn!("{what}: {}", problem.text);
                let reason = match index < self.problems.len() {
                    true if problem.is_error() => REFUSED,
                    true => continue,
                    false => UNHEARD,
                };
                if let Some(about) = problem.about() {
                    notes.entry((about, reason)).or_default().push(problem.note());
                }
            }
        }
        for ((about, (reason, action)), notes) in notes {
            let (about, note) = (Some(about), notes.join("; "));
            self.events.tell(Event { about, warning: true, reason, action, note });
        }
        for over in self.known.difference(&now) {
            tracing::info!("no longer: {over}");
        }
        self.known = now;
        self.status.update(|status| {
            (status.reasons, status.warnings, status.problems) = (reasons, warnings, problems);
        });
    }
}
