//! Objects of the API, cut down to the model's own as soon as they are read:
//! nothing else of them is ever kept, so neither a long list nor a long watch
//! takes more memory than what is served.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Node as ApiNode, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice as ApiSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR as ApiCidr;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::store::{KindStore, Store};
use crate::model::{
    EndpointSlice, Finding, Findings, Kind, Node, ObjectName, Service, ServiceCidr,
};

/// When the Service or Pod changed for which a slice was changed, as RFC 3339
/// (`EndpointsLastChangeTriggerTime` of k8s.io/api/core/v1).
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An object of the model that the API has.
pub(super) trait Kept: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// What the API calls it.
    const KIND: Kind;
    /// The last part of its URL.
    const PLURAL: &'static str;
    /// How the API has it.
    type Api: DeserializeOwned;

    /// Checks it; none if it is refused.
    fn from_api(name: ObjectName, api: Self::Api, findings: &mut Findings) -> Option<Self>;

    /// Where it is kept.
    fn store(store: &mut Store) -> &mut KindStore<Self>;

    /// Whether something ends with a change that may begin anew with the next
    /// one: an endpoint that moves from one slice to another must not be gone
    /// in between.
    fn takes_away(_old: &Self, _new: Option<&Self>) -> bool {
        false
    }
}

impl Kept for Service {
    const KIND: Kind = Kind::Service;
    const PLURAL: &'static str = "services";
    type Api = ApiService;

    fn from_api(name: ObjectName, api: Self::Api, findings: &mut Findings) -> Option<Self> {
        Self::from_api(name, api, findings)
    }

    fn store(store: &mut Store) -> &mut KindStore<Self> {
        &mut store.services
    }
}

impl Kept for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    const PLURAL: &'static str = "endpointslices";
    type Api = ApiSlice;

    fn from_api(name: ObjectName, api: Self::Api, findings: &mut Findings) -> Option<Self> {
        Self::from_api(name, api, findings)
    }

    fn store(store: &mut Store) -> &mut KindStore<Self> {
        &mut store.endpoint_slices
    }

    fn takes_away(old: &Self, new: Option<&Self>) -> bool {
        let still = |addr| {
            new.is_some_and(|new| new.endpoints.iter().any(|endpoint| endpoint.addr == addr))
        };
        old.endpoints.iter().any(|endpoint| !still(endpoint.addr))
    }
}

impl Kept for Node {
    const KIND: Kind = Kind::Node;
    const PLURAL: &'static str = "nodes";
    type Api = ApiNode;

    fn from_api(name: ObjectName, api: Self::Api, findings: &mut Findings) -> Option<Self> {
        Self::from_api(name, api, findings)
    }

    fn store(store: &mut Store) -> &mut KindStore<Self> {
        &mut store.nodes
    }
}

impl Kept for ServiceCidr {
    const KIND: Kind = Kind::ServiceCidr;
    const PLURAL: &'static str = "servicecidrs";
    type Api = ApiCidr;

    fn from_api(name: ObjectName, api: Self::Api, findings: &mut Findings) -> Option<Self> {
        Self::from_api(name, &api, findings)
    }

    fn store(store: &mut Store) -> &mut KindStore<Self> {
        &mut store.service_cidrs
    }
}

/// What became of an object.
#[derive(Clone, Debug)]
pub(super) struct Slim<M> {
    /// Its name, uid and version; nothing else.
    meta: ObjectMeta,
    /// What it is, unless it is refused.
    pub(super) object: Option<Arc<M>>,
    /// What is wrong with it.
    pub(super) findings: Vec<Finding>,
    /// When what changed it happened, if that is noted.
    pub(super) trigger: Option<SystemTime>,
}

impl<M> Slim<M> {
    /// Its name.
    pub(super) fn name(&self) -> ObjectName {
        let ObjectMeta { namespace, name, .. } = &self.meta;
        ObjectName {
            namespace: namespace.clone().unwrap_or_default(),
            name: name.clone().unwrap_or_default(),
        }
    }

    /// Which version of it this is, by the API server's count of all changes.
    pub(super) fn version(&self) -> Option<u64> {
        self.meta.resource_version.as_ref()?.parse().ok()
    }

    /// What tells it from others that have its name before or after it.
    pub(super) fn uid(&self) -> Option<&str> {
        self.meta.uid.as_deref()
    }
}

impl<M: Kept> Resource for Slim<M> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        M::KIND.name().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        M::KIND.group().into()
    }

    fn version((): &()) -> Cow<'_, str> {
        let version = M::KIND.api_version();
        version.rsplit('/').next().unwrap_or(version).into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        M::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// The part of an object's metadata that matters; managed fields, the larger part
/// of many objects, are skipped unread.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    resource_version: Option<String>,
    #[serde(skip_serializing)]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_timestamp: Option<Value>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Metadata {
    /// What a controller noted of the time of a change; what is no time notes none.
    fn trigger(&self) -> Option<SystemTime> {
        let at: Timestamp = self.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?.parse().ok()?;
        Some(at.into())
    }
}

impl<'de, M: Kept> Deserialize<'de> for Slim<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<M>(PhantomData<M>);

impl<'de, M: Kept> Visitor<'de> for ObjectVisitor<M> {
    type Value = Slim<M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", M::KIND.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Slim<M>, A::Error> {
        let mut metadata = Metadata::default();
        let mut rest = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "metadata" {
                metadata = map.next_value()?;
            } else {
                rest.insert(key, map.next_value()?);
            }
        }
        if metadata.name.is_empty() {
            return Err(A::Error::custom(format_args!("a {} without a name", M::KIND.name())));
        }
        let meta = ObjectMeta {
            name: Some(metadata.name.clone()),
            namespace: metadata.namespace.clone(),
            resource_version: metadata.resource_version.clone(),
            uid: metadata.uid.take(),
            ..ObjectMeta::default()
        };
        let trigger = metadata.trigger();
        rest.insert(
            "metadata".to_owned(),
            serde_json::to_value(metadata).map_err(A::Error::custom)?,
        );
        let mut slim = Slim { meta, object: None, findings: Vec::new(), trigger };
        let mut findings = Findings::default();
        // One that can't be read must not take the others of its list along.
        match serde_path_to_error::deserialize(Value::Object(rest)) {
            Ok(api) => slim.object = M::from_api(slim.name(), api, &mut findings).map(Arc::new),
            Err(error) => findings.error(error.path(), error.inner()),
        }
        slim.findings = findings.into_vec();
        Ok(slim)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    fn service(name: &str, port: i64) -> Value {
        json!({
            "metadata": { "name": name, "namespace": "shop", "resourceVersion": "7",
                "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:spec": {} } }] },
            "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": port }] },
        })
    }

    #[test]
    fn one_that_can_not_be_read_leaves_the_others_of_its_list() {
        let list = json!({ "kind": "ServiceList", "apiVersion": "v1",
            "metadata": { "resourceVersion": "9" },
            "items": [service("a", 80), service("b", 1 << 40), service("c", 0)] });
        let list: ObjectList<Slim<Service>> = serde_json::from_value(list).unwrap();
        let [a, b, c] = &list.items[..] else { panic!("{list:?}") };
        assert_eq!((a.name().to_string(), a.version()), ("shop/a".to_owned(), Some(7)));
        assert_eq!(a.object.as_ref().unwrap().ports[0].port, 80);
        assert!(b.object.is_none() && b.findings[0].field == "spec.ports[0].port");
        assert!(c.object.is_none() && c.findings[0].field == "spec.ports[0].port");
    }

    #[test]
    fn events_are_read_whatever_comes_first_in_them() {
        let object = service("a", 80).to_string();
        for text in [
            format!(r#"{{"type":"ADDED","object":{object}}}"#),
            format!(r#"{{"object":{object},"type":"ADDED"}}"#),
        ] {
            let event: WatchEvent<Slim<Service>> = serde_json::from_str(&text).unwrap();
            let WatchEvent::Added(slim) = event else { panic!("{event:?}") };
            assert!(slim.object.is_some());
        }
    }

    #[test]
    fn the_urls_are_those_of_the_api() {
        let url = |url: String| url;
        assert_eq!(url(Slim::<Service>::url_path(&(), None)), "/api/v1/services");
        assert_eq!(
            url(Slim::<EndpointSlice>::url_path(&(), None)),
            "/apis/discovery.k8s.io/v1/endpointslices"
        );
        assert_eq!(url(Slim::<Node>::url_path(&(), None)), "/api/v1/nodes");
        assert_eq!(
            url(Slim::<ServiceCidr>::url_path(&(), None)),
            "/apis/networking.k8s.io/v1/servicecidrs"
        );
    }
}
