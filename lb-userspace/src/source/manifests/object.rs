//! Documents to objects: lists are taken apart, kinds that nobody needs are
//! skipped, and the others become API types and then the model, with every
//! field that is wrong or unknown named by its path.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::{Map, Value};

use crate::desired::Severity;
use crate::model::{
    EndpointSlice, Finding, Findings, Kind, Node, ObjectName, Pod, Service, ServiceCidr,
};

/// Kind and name.
pub(super) type ObjectId = (Kind, ObjectName);

/// An object of any kind.
#[derive(Clone, Debug)]
pub(super) enum AnyObject {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    ServiceCidr(Arc<ServiceCidr>),
}

impl AnyObject {
    /// Its kind.
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// What tells it from others.
    pub(super) fn id(&self) -> ObjectId {
        (self.kind(), self.name().clone())
    }

    /// Its name.
    pub(super) fn name(&self) -> &ObjectName {
        match self {
            Self::Service(object) => &object.name,
            Self::EndpointSlice(object) => &object.name,
            Self::Pod(object) => &object.name,
            Self::Node(object) => &object.name,
            Self::ServiceCidr(object) => &object.name,
        }
    }
}

/// What one object of a file became.
#[derive(Clone, Debug)]
pub(super) struct Decoded {
    /// What it is, if that much can be read.
    pub(super) id: Option<ObjectId>,
    /// What people call it.
    pub(super) label: Option<String>,
    /// The object, unless it is refused.
    pub(super) object: Option<AnyObject>,
    /// What is wrong with it.
    pub(super) findings: Vec<Finding>,
}

/// How many objects there are of each kind that is not read, with its group as
/// in `Deployment.apps`.
pub type Ignored = BTreeMap<String, usize>;

/// What all documents of a file became.
#[derive(Clone, Debug, Default)]
pub(super) struct DecodedFile {
    pub(super) objects: Vec<Decoded>,
    /// Objects of other kinds.
    pub(super) ignored: Ignored,
}

/// Interprets the documents of one file.
pub(super) fn decode(documents: Vec<Value>) -> DecodedFile {
    let mut file = DecodedFile::default();
    let single = documents.len() == 1;
    for (index, document) in documents.into_iter().enumerate() {
        let place = if single { String::new() } else { format!("document {}", index + 1) };
        file.document(document, place, None);
    }
    file
}

/// Interprets one document or item, which stands at `place` in its file.
pub(super) fn decode_part(part: Value, place: String) -> DecodedFile {
    let mut file = DecodedFile::default();
    file.document(part, place, None);
    file
}

impl DecodedFile {
    /// Whether what is said of it depends on where it stands: people know what
    /// has no name by its place.
    pub(super) fn is_placed(&self) -> bool {
        self.objects.iter().any(|decoded| decoded.id.is_none())
    }

    /// `place` says where in the file the document stands; the items of a typed
    /// list (as the API server answers) leave out what they are.
    fn document(&mut self, document: Value, place: String, implied: Option<Kind>) {
        let Value::Object(mut document) = document else {
            self.refuse(place, None, "", "is not an object with apiVersion and kind");
            return;
        };
        if let Some(kind) = implied {
            document.entry("apiVersion").or_insert_with(|| kind.api_version().into());
            document.entry("kind").or_insert_with(|| kind.name().into());
        }
        let word = |field: &'static str| match document.get(field) {
            Some(Value::String(word)) if !word.is_empty() => Ok(word.clone()),
            Some(_) => Err((field, "must be a word")),
            None => Err((field, "is missing")),
        };
        let (kind, api_version) = match (word("kind"), word("apiVersion")) {
            (Ok(kind), Ok(api_version)) => (kind, api_version),
            (Err((field, message)), _) | (_, Err((field, message))) => {
                self.refuse(place, None, field, message);
                return;
            }
        };
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let known = |name: &str| {
            Kind::ALL.into_iter().find(|kind| kind.name() == name && kind.group() == group)
        };
        if let Some(kind) = known(&kind) {
            self.object(kind, &api_version, document, &place);
            return;
        }
        let list = kind.strip_suffix("List");
        let list_of = list.and_then(known);
        if list_of.is_some() || (list == Some("") && group.is_empty()) {
            self.list(document, &place, list_of);
        } else {
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            *self.ignored.entry(kind).or_default() += 1;
        }
    }

    fn list(&mut self, mut list: Map<String, Value>, place: &str, of: Option<Kind>) {
        let items = match list.remove("items") {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                self.refuse(place.to_owned(), None, "items", "must be a list");
                return;
            }
        };
        for (index, item) in items.into_iter().enumerate() {
            let separator = if place.is_empty() { "" } else { " " };
            self.document(item, format!("{place}{separator}items[{index}]"), of);
        }
    }

    fn object(
        &mut self,
        kind: Kind,
        api_version: &str,
        mut document: Map<String, Value>,
        place: &str,
    ) {
        let Some(name) = object_name(kind, &document) else {
            let label = format!("{} ({})", kind.name(), or_file(place));
            self.refuse(place.to_owned(), Some(label), "metadata.name", "is missing or no word");
            return;
        };
        let label = format!("{} {name}", kind.name());
        if !kind.reads(api_version) {
            let message = format!("{api_version:?} can't be read, only {:?}", kind.api_version());
            let mut findings = Findings::default();
            findings.error("apiVersion", message);
            self.objects.push(Decoded {
                id: Some((kind, name)),
                label: Some(label),
                object: None,
                findings: findings.into_vec(),
            });
            return;
        }
        document.insert("apiVersion".to_owned(), kind.api_version().into());
        let mut findings = Findings::default();
        let object = convert(kind, name.clone(), Value::Object(document), &mut findings);
        self.objects.push(Decoded {
            id: Some((kind, name)),
            label: Some(label),
            object,
            findings: findings.into_vec(),
        });
    }

    fn refuse(&mut self, place: String, label: Option<String>, field: &str, message: &str) {
        let finding = Finding {
            severity: Severity::Error,
            field: field.to_owned(),
            message: message.to_owned(),
        };
        let label = label.or_else(|| (!place.is_empty()).then_some(place));
        self.objects.push(Decoded { id: None, label, object: None, findings: vec![finding] });
    }
}

fn or_file(place: &str) -> &str {
    if place.is_empty() { "the only document" } else { place }
}

fn object_name(kind: Kind, document: &Map<String, Value>) -> Option<ObjectName> {
    let metadata = document.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let namespace = match metadata.get("namespace") {
        _ if !kind.namespaced() => "",
        None | Some(Value::Null) => "default",
        Some(namespace) => match namespace.as_str()? {
            "" => "default",
            namespace => namespace,
        },
    };
    Some(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn convert(
    kind: Kind,
    name: ObjectName,
    document: Value,
    findings: &mut Findings,
) -> Option<AnyObject> {
    match kind {
        Kind::Service => {
            let api = typed(document, findings)?;
            let object = Service::from_api(name, api, findings)?;
            Some(AnyObject::Service(Arc::new(object)))
        }
        Kind::EndpointSlice => {
            let api = typed(document, findings)?;
            let object = EndpointSlice::from_api(name, api, findings)?;
            Some(AnyObject::EndpointSlice(Arc::new(object)))
        }
        Kind::Pod => {
            let api = typed(document, findings)?;
            let object = Pod::from_api(name, api, findings)?;
            Some(AnyObject::Pod(Arc::new(object)))
        }
        Kind::Node => {
            let api = typed(document, findings)?;
            let object = Node::from_api(name, api, findings)?;
            Some(AnyObject::Node(Arc::new(object)))
        }
        Kind::ServiceCidr => {
            let api = typed(document, findings)?;
            let object = ServiceCidr::from_api(name, &api, findings)?;
            Some(AnyObject::ServiceCidr(Arc::new(object)))
        }
    }
}

/// An API type, as `kubectl --validate=strict` would take it, but that unknown
/// fields are only warned about: a dump may come from a newer cluster.
fn typed<T: DeserializeOwned>(document: Value, findings: &mut Findings) -> Option<T> {
    let mut unknown = Vec::new();
    let mut note = |path: Path<'_>| unknown.push(field_path(&path));
    let result =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(document, &mut note));
    for field in unknown {
        findings.warning(field, "is unknown and has no effect");
    }
    result.map_err(|error| findings.error(error.path(), error.inner())).ok()
}

/// The path in the form that API errors have: `spec.ports[0].port`.
pub(crate) fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => {
            let parent = field_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(documents: Vec<Value>) -> Vec<String> {
        let mut lines = Vec::new();
        for decoded in decode(documents).objects {
            let label = decoded.label.unwrap_or_default();
            if decoded.object.is_some() {
                lines.push(format!("{label} accepted"));
            }
            lines.extend(decoded.findings.into_iter().map(|finding| {
                format!("{label} {}: {}: {}", finding.severity, finding.field, finding.message)
            }));
        }
        lines
    }

    fn node(name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
    }

    #[test]
    fn lists_are_taken_apart_and_a_bad_item_refuses_only_itself() {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
            node("a"), { "kind": "Node" }, 7, { "apiVersion": "v1", "kind": "List", "items": [node("b")] } ] });
        let typed = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "items": [
            { "metadata": { "name": "s", "namespace": "n" }, "addressType": "IPv4", "endpoints": null } ] });
        assert_eq!(
            lines(vec![list, typed]),
            [
                "Node a accepted",
                "document 1 items[1] error: apiVersion: is missing",
                "document 1 items[2] error: : is not an object with apiVersion and kind",
                "Node b accepted",
                "EndpointSlice n/s accepted",
            ]
        );
    }

    #[test]
    fn other_kinds_are_ignored_and_other_versions_of_ours_refused() {
        let file = decode(vec![
            json!({ "apiVersion": "v1", "kind": "Secret" }),
            json!({ "apiVersion": "serving.knative.dev/v1", "kind": "Service" }),
            json!({ "apiVersion": "apps/v1", "kind": "DeploymentList", "items": 3 }),
        ]);
        let ignored: Vec<_> = file.ignored.keys().map(String::as_str).collect();
        assert_eq!(ignored, ["DeploymentList.apps", "Secret", "Service.serving.knative.dev"]);
        assert!(file.objects.is_empty());
        assert_eq!(
            lines(vec![json!({
                "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
                "metadata": { "name": "s" },
            })]),
            ["EndpointSlice default/s error: apiVersion: \"discovery.k8s.io/v1beta1\" can't be \
              read, only \"discovery.k8s.io/v1\""]
        );
    }

    #[test]
    fn the_beta_of_service_cidrs_is_read_alone_and_in_lists() {
        let cidr = |name: &str| json!({ "metadata": { "name": name }, "spec": { "cidrs": ["10.0.0.0/16"] } });
        let mut beta = cidr("a");
        beta["apiVersion"] = "networking.k8s.io/v1beta1".into();
        beta["kind"] = "ServiceCIDR".into();
        let list = |version: &str, items: Value| json!({ "apiVersion": format!("networking.k8s.io/{version}"), "kind": "ServiceCIDRList", "items": items });
        assert_eq!(
            lines(vec![
                beta.clone(),
                list("v1beta1", json!([cidr("b")])),
                list("v1", json!([cidr("c")])),
                list("v1beta1", json!([beta])),
            ]),
            ["a", "b", "c", "a"].map(|name| format!("ServiceCIDR {name} accepted"))
        );
    }

    #[test]
    fn wrong_types_refuse_and_unknown_fields_warn_with_their_path() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "labls": {} },
            "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "tragetPort": 1 }] },
        });
        assert_eq!(
            lines(vec![service.clone()]),
            [
                "Service default/web accepted",
                "Service default/web warning: metadata.labls: is unknown and has no effect",
                "Service default/web warning: spec.ports[0].tragetPort: is unknown and has no effect",
            ]
        );
        for (pointer, bad, expected) in [
            ("/spec/ports/0/port", json!("eighty"), "spec.ports[0].port: invalid type: string"),
            ("/spec/ports/0/port", json!(4_294_967_296_u64), "spec.ports[0].port: invalid value"),
            ("/spec/selector", json!({ "v": 1 }), "spec.selector.v: invalid type: integer `1`"),
            ("/spec", json!([]), "spec: invalid type: sequence"),
            ("/metadata/creationTimestamp", json!("noon"), "metadata.creationTimestamp: "),
        ] {
            let mut service = service.clone();
            let (parent, leaf) = pointer.rsplit_once('/').unwrap();
            service.pointer_mut(parent).unwrap()[leaf] = bad;
            let lines = lines(vec![service]);
            let expected = format!("Service default/web error: {expected}");
            assert!(lines.iter().any(|line| line.starts_with(&expected)), "{lines:?}");
            assert!(!lines.iter().any(|line| line.ends_with("accepted")), "{lines:?}");
        }
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} });
        assert_eq!(
            lines(vec![service]),
            ["Service (the only document) error: metadata.name: is missing or no word"]
        );
    }
}
