//! `lb check`: what the agent would make of a directory of manifests, object by
//! object, without root and without touching the kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::explain::{ServiceRow, write as write_explanations};
use crate::cli::{Format, print, print_json};
use crate::desired::{
    CompileOptions, Desired, Explanation, Problem, Severity, compile, explain, health_checks,
    printable, service_cidrs,
};
use crate::model::{Kind, ObjectName, Objects, Sourced};
use crate::source::Snapshot;
use crate::source::manifests::{Ignored, ManifestDir};

/// Arguments of `lb check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Directory with the manifests
    #[arg(value_name = "DIR")]
    pub manifests: PathBuf,
    /// Fail on warnings too
    #[arg(long)]
    pub strict: bool,
    /// Name of the node whose view is checked
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Checks the directory and prints the result. The exit status is 1 if anything
/// was refused, or with `--strict` warned about.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut dir = ManifestDir::new(&args.manifests);
    let snapshot = dir.load()?;
    let options = CompileOptions { node_name: args.node_name.clone(), ..CompileOptions::default() };
    let (desired, mut problems) = compile(&snapshot.objects, &options);
    problems.extend(health_checks(&snapshot.objects, &options).1);
    let explanations = explain(&snapshot.objects, &desired);
    let report = Report::new(
        (&dir, &snapshot),
        &desired,
        &problems,
        &explanations,
        args.node_name.as_deref(),
    );
    match args.output {
        Format::Text => print(&report.text(&explanations))?,
        Format::Json => print_json(&report)?,
    }
    let bad = report.refused > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    files: usize,
    accepted: usize,
    refused: usize,
    warnings: usize,
    ignored: usize,
    /// By kind.
    ignored_kinds: Ignored,
    service_ports: usize,
    /// Where addresses that no Service has are dropped.
    service_cidrs: Vec<String>,
    /// Of the node, if one was named.
    backends: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<&'a str>,
    objects: Vec<Row<'a>>,
    services: Vec<ServiceRow>,
}

/// An object, or a file as a whole.
#[derive(Debug, Serialize)]
struct Row<'a> {
    file: &'a str,
    object: Option<String>,
    result: Verdict,
    problems: Vec<RowProblem<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Accepted,
    Refused,
}

#[derive(Debug, Serialize)]
struct RowProblem<'a> {
    severity: &'static str,
    field: Option<&'a str>,
    message: &'a str,
}

impl<'a> Report<'a> {
    fn new(
        (dir, snapshot): (&ManifestDir, &'a Snapshot),
        desired: &Desired,
        compiled: &'a [Problem],
        explanations: &[Explanation],
        node_name: Option<&'a str>,
    ) -> Self {
        let mut rows: BTreeMap<(&str, Option<String>), Vec<&Problem>> = BTreeMap::new();
        for (file, label) in labels(&snapshot.objects) {
            rows.insert((file, Some(label)), Vec::new());
        }
        for problem in snapshot.problems.iter().chain(compiled) {
            rows.entry((&problem.file, problem.object.clone())).or_default().push(problem);
        }
        let objects: Vec<_> = rows
            .into_iter()
            .map(|((file, object), problems)| Row::new(file, object, &problems))
            .collect();
        let count = |verdict| objects.iter().filter(|row| row.result == verdict).count();
        let backends = desired.services.values().flat_map(|service| &service.backends);
        let ignored = dir.ignored();
        Self {
            files: dir.files(),
            accepted: count(Verdict::Accepted),
            refused: count(Verdict::Refused),
            warnings: objects
                .iter()
                .flat_map(|row| &row.problems)
                .filter(|problem| problem.severity == "warning")
                .count(),
            ignored: ignored.values().sum(),
            ignored_kinds: ignored,
            service_ports: desired.services.len(),
            service_cidrs: service_cidrs(&snapshot.objects)
                .iter()
                .map(ToString::to_string)
                .collect(),
            backends: backends.filter(|backend| node_name.is_none() || backend.local).count(),
            node_name,
            objects,
            services: explanations.iter().map(ServiceRow::new).collect(),
        }
    }

    fn text(&self, explanations: &[Explanation]) -> String {
        let mut text = String::new();
        for row in &self.objects {
            row.write(&mut text);
        }
        write_explanations(&mut text, explanations, self.node_name.is_some());
        // Writing to a string can't fail.
        if !self.service_cidrs.is_empty() {
            let ranges = self.service_cidrs.join(", ");
            let rest = "what no Service has is dropped";
            let _ = writeln!(text, "ServiceCIDRs {ranges}: {rest}");
        }
        let _ = writeln!(
            text,
            "{} accepted, {} refused, {}, {} of other kinds ignored{}; {}, {}, {}{}",
            count(self.accepted, "object"),
            self.refused,
            count(self.warnings, "warning"),
            self.ignored,
            kinds(&self.ignored_kinds),
            count(self.files, "file"),
            count(self.service_ports, "Service port"),
            count(self.backends, "backend"),
            self.node_name.map(|name| format!(" on {}", printable(name))).unwrap_or_default(),
        );
        text
    }
}

/// In brackets, if there are any: a slip in a kind is seen here alone.
fn kinds(ignored: &Ignored) -> String {
    if ignored.is_empty() {
        return String::new();
    }
    let kinds: Vec<_> = ignored
        .iter()
        .map(|(kind, count)| match count {
            1 => printable(kind).to_string(),
            _ => format!("{count} {}", printable(kind)),
        })
        .collect();
    format!(" ({})", kinds.join(", "))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl<'a> Row<'a> {
    fn new(file: &'a str, object: Option<String>, problems: &[&'a Problem]) -> Self {
        let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
        let problems = problems
            .iter()
            .map(|problem| RowProblem {
                severity: match problem.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                field: problem.field.as_deref(),
                message: &problem.message,
            })
            .collect();
        let result = if refused { Verdict::Refused } else { Verdict::Accepted };
        Self { file, object, result, problems }
    }

    /// Each line stands for itself, so that it can be searched for.
    fn write(&self, text: &mut String) {
        let mut head = printable(self.file).to_string();
        if let Some(object) = &self.object {
            head = format!("{head}: {}", printable(object));
        }
        // Writing to a string can't fail.
        if self.result == Verdict::Accepted {
            let _ = writeln!(text, "{head}: accepted");
        }
        for problem in &self.problems {
            let mark = if problem.severity == "error" { "refused" } else { "warning" };
            let _ = write!(text, "{head}: {mark}: ");
            if let Some(field) = problem.field {
                let _ = write!(text, "{}: ", printable(field));
            }
            let _ = writeln!(text, "{}", printable(problem.message));
        }
    }
}

/// File and label of every object in force.
fn labels(objects: &Objects) -> Vec<(&str, String)> {
    fn add<'a, T>(
        labels: &mut Vec<(&'a str, String)>,
        kind: Kind,
        objects: &'a BTreeMap<ObjectName, Sourced<T>>,
    ) {
        labels.extend(
            objects.iter().map(|(name, one)| (&*one.file, format!("{} {name}", kind.name()))),
        );
    }
    let mut labels = Vec::with_capacity(objects.len());
    add(&mut labels, Kind::Service, &objects.services);
    add(&mut labels, Kind::EndpointSlice, &objects.endpoint_slices);
    add(&mut labels, Kind::Pod, &objects.pods);
    add(&mut labels, Kind::Node, &objects.nodes);
    add(&mut labels, Kind::ServiceCidr, &objects.service_cidrs);
    labels
}
