//! What the agent says of itself: on its socket as JSON, in the log, and in
//! the metrics.

use crate::dataplane::{HookStatus, SocketStatus};
use crate::desired::{Problem, Severity};
use crate::model::{Kind, ObjectName};
use crate::source::Condition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The process.
    pub agent: AgentInfo,
    /// Where the Services come from.
    #[serde(default)]
    pub source: SourceInfo,
    /// Hooks of every interface.
    pub hooks: Vec<HookInfo>,
    /// The hooks of sockets.
    pub sockets: SocketInfo,
    /// The last time that the kernel was brought up to date.
    pub last_sync: Option<SyncInfo>,
    /// The last time that the kernel was compared with what it should hold.
    #[serde(default)]
    pub last_check: Option<CheckInfo>,
    /// Objects that are refused, or in force only in part.
    pub problems: Vec<ProblemInfo>,
    /// What works, but perhaps not as intended.
    pub warnings: Vec<String>,
    /// Why not everything is in order.
    pub reasons: Vec<String>,
}

/// The agent's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Process id.
    pub pid: u32,
    /// Version of `lb`.
    pub version: String,
    /// When it started, in seconds since 1970.
    pub started: f64,
    /// The Node object of this machine.
    pub node_name: Option<String>,
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// Where the agent's own health is told.
    pub healthz: Option<String>,
}

/// Where the Services come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// `manifests` or `kubernetes`.
    pub kind: String,
    /// The directory, or the URL of the API server.
    pub place: String,
    /// Whether it has told what there is, since the agent started.
    pub complete: bool,
    /// Since when it can't be reached, in seconds since 1970.
    pub no_contact_since: Option<f64>,
}

impl From<Condition> for SourceInfo {
    fn from(condition: Condition) -> Self {
        let Condition { kind, place, complete, no_contact_since, complaint: _ } = condition;
        Self { kind: kind.to_owned(), place, complete, no_contact_since }
    }
}

/// One hook of one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookInfo {
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub index: u32,
    /// What the interface is for: `uplink`, `pod` or `tunnel`.
    pub role: String,
    /// `ingress`, `egress` or `xdp`.
    pub hook: String,
    /// `tcx`, `clsact`, `native` or `generic`; none if nothing is attached.
    pub mode: Option<String>,
    /// Why nothing is attached, or what else is worth knowing.
    pub note: Option<String>,
    /// Whether it was asked for and could not be done.
    pub failed: bool,
}

impl From<HookStatus> for HookInfo {
    fn from(status: HookStatus) -> Self {
        let HookStatus { interface, index, role, hook, mode, note, failed } = status;
        Self {
            interface,
            index,
            role: role.to_string(),
            hook: hook.to_string(),
            mode: mode.map(|mode| mode.to_string()),
            note,
            failed,
        }
    }
}

/// The hooks of sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketInfo {
    /// Whose sockets should be served: `host`, `all` or `off`.
    pub clients: String,
    /// The cgroup that the programs are attached to, if they are.
    pub cgroup: Option<PathBuf>,
    /// Why they are not.
    pub note: Option<String>,
}

impl From<SocketStatus> for SocketInfo {
    fn from(status: SocketStatus) -> Self {
        let SocketStatus { clients, cgroup, note } = status;
        Self { clients: clients.to_string(), cgroup, note }
    }
}

/// One time that the kernel was brought up to date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncInfo {
    /// When, in seconds since 1970.
    pub at: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// How many Service ports changed.
    pub changed: usize,
    /// How many rows of maps, or runs of slots, that took.
    #[serde(default)]
    pub writes: usize,
    /// How many bytes these are.
    #[serde(default)]
    pub bytes: usize,
}

/// One time that the kernel was compared with what it should hold, and what had
/// to be put right since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckInfo {
    /// When, in seconds since 1970.
    pub at: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// What was put right, by kind.
    pub repairs: BTreeMap<String, u64>,
    /// What was put right last.
    pub last_repair: Option<RepairInfo>,
}

/// Something that was put right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairInfo {
    /// When, in seconds since 1970.
    pub at: f64,
    /// What was wrong.
    pub text: String,
}

/// Something that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProblemInfo {
    /// `error`: the object is refused; `warning`: a part of it is ignored.
    pub severity: String,
    /// The file, if the object comes from one.
    pub file: Option<String>,
    /// The object, as in `Service default/web`.
    pub object: Option<String>,
    /// The field.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// All of it in one sentence.
    pub text: String,
}

impl ProblemInfo {
    /// Whether the object is refused.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error.to_string()
    }

    /// Which object it is, if it can be told.
    pub(super) fn about(&self) -> Option<(Kind, ObjectName)> {
        let (kind, rest) = self.object.as_deref()?.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|one| one.name() == kind)?;
        // Of a Service port, the Service.
        let name = rest.split([' ', ':']).next()?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Some((kind, ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }))
    }

    /// What is wrong, for who looks at the object.
    pub(super) fn note(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// A Service port that did not fit.
    pub fn refused(service: &str, reason: &str) -> Self {
        let object = format!("Service {service}");
        Self {
            severity: Severity::Error.to_string(),
            file: None,
            text: format!("{object}: {reason}"),
            object: Some(object),
            field: None,
            message: reason.to_owned(),
        }
    }
}

impl From<Problem> for ProblemInfo {
    fn from(problem: Problem) -> Self {
        let text = problem.to_string();
        let Problem { severity, file, object, field, message } = problem;
        Self { severity: severity.to_string(), file: Some(file), object, field, message, text }
    }
}

/// The status, shared between the loop that writes it and those who ask.
#[derive(Debug, Default)]
pub(super) struct SharedStatus(Mutex<AgentStatus>);

impl SharedStatus {
    /// The status as it is.
    pub(super) fn get(&self) -> AgentStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it.
    pub(super) fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Now, in seconds since 1970.
pub(crate) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_knows_its_object() {
        let about = |object: &str| {
            let problem =
                ProblemInfo { object: Some(object.to_owned()), ..ProblemInfo::refused("", "") };
            problem.about().map(|(kind, name)| format!("{} {name}", kind.name()))
        };
        assert_eq!(about("Service shop/web").as_deref(), Some("Service shop/web"));
        assert_eq!(about("Service shop/web:http (TCP)").as_deref(), Some("Service shop/web"));
        assert_eq!(about("Service shop/web (UDP)").as_deref(), Some("Service shop/web"));
        assert_eq!(about("ServiceCIDR kubernetes").as_deref(), Some("ServiceCIDR kubernetes"));
        assert_eq!(about("Secret shop/web"), None);
    }
}
