//! A listener for each Service that external load balancers ask about. They
//! appear and go with the Services; what can't be listened on is a problem of
//! its Service alone.

use super::listen::{everywhere, listen_any};
use super::proxy::ProxyHealth;
use super::{MOST, json};
use crate::agent::server::{Connections, PATIENCE, serve};
use crate::desired::{HealthCheck, Problem, Severity};
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::JoinHandle;

/// The ports that are listened on.
#[derive(Debug)]
pub(in crate::agent) struct HealthPorts {
    proxy: Arc<ProxyHealth>,
    connections: Arc<Connections>,
    open: BTreeMap<u16, Port>,
}

/// One port. It may change hands without being closed.
#[derive(Debug)]
struct Port {
    check: Arc<Mutex<HealthCheck>>,
    /// By family, as counts are.
    families: [Family; 2],
}

/// A family of a port.
#[derive(Debug)]
enum Family {
    /// Not listened on, or not yet.
    Closed,
    /// The kernel does not have this family.
    Absent,
    /// Listened on.
    Open { _server: Server },
}

/// A task that ends with this value, and its listener with it.
#[derive(Debug)]
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthPorts {
    /// None yet. Whether the agent keeps up is part of each answer.
    pub(in crate::agent) fn new(proxy: Arc<ProxyHealth>) -> Self {
        Self { proxy, connections: Connections::new(MOST), open: BTreeMap::new() }
    }

    /// Listens on these ports and no others, with these answers. What can't be
    /// listened on comes back as problems; asking again tries it again.
    pub(in crate::agent) fn update(&mut self, checks: &[HealthCheck]) -> Vec<Problem> {
        let wanted: BTreeMap<u16, &HealthCheck> =
            checks.iter().map(|check| (check.port, check)).collect();
        self.open.retain(|port, _| wanted.contains_key(port));
        let (connections, proxy) = (&self.connections, &self.proxy);
        let mut problems = Vec::new();
        for (number, check) in wanted {
            let port = self.open.entry(number).or_insert_with(|| Port {
                check: Arc::new(Mutex::new(check.clone())),
                families: [Family::Closed, Family::Closed],
            });
            check.clone_into(&mut port.check.lock().unwrap_or_else(PoisonError::into_inner));
            let mut failures = Vec::new();
            for (family, address) in everywhere(number).into_iter().enumerate() {
                if !matches!(port.families[family], Family::Closed) {
                    continue;
                }
                port.families[family] = match listen_any(address) {
                    Ok(None) => Family::Absent,
                    Ok(Some(listener)) => {
                        let answer = answer(&port.check, family, proxy);
                        let task = serve(listener, Arc::clone(connections), PATIENCE, answer);
                        Family::Open { _server: Server(tokio::spawn(task)) }
                    }
                    Err(error) => {
                        failures.push(format!("{address}: {error}"));
                        Family::Closed
                    }
                };
            }
            if !failures.is_empty() {
                problems.push(problem(check, &failures.join("; ")));
            }
        }
        problems
    }
}

/// What a family of a port answers, whatever is asked.
fn answer(
    check: &Arc<Mutex<HealthCheck>>,
    family: usize,
    proxy: &Arc<ProxyHealth>,
) -> impl Fn(String) -> Ready<Response<String>> + Clone + Send + Sync + use<> {
    let (check, proxy) = (Arc::clone(check), Arc::clone(proxy));
    move |_path| {
        let check = check.lock().unwrap_or_else(PoisonError::into_inner);
        ready(page(&check, family, proxy.keeps_up(Instant::now())))
    }
}

fn problem(check: &HealthCheck, failures: &str) -> Problem {
    Problem {
        severity: Severity::Warning,
        file: check.file.clone(),
        object: Some(format!("Service {}", check.service)),
        field: Some("spec.healthCheckNodePort".to_owned()),
        message: format!(
            "can't be listened on, so load balancers get no answer from this node until it can \
             ({failures})"
        ),
    }
}

/// Byte for byte what kube-proxy says.
fn page(check: &HealthCheck, family: usize, keeps_up: bool) -> Response<String> {
    let HealthCheck { service, local_ready, .. } = check;
    let count = local_ready[family];
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {keeps_up}\n}}",
        service.namespace, service.name
    );
    let mut response = json(count > 0 && keeps_up, body);
    let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
    response.headers_mut().insert(weight, HeaderValue::from(count));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;
    use hyper::StatusCode;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    fn check(name: &str, port: u16, local_ready: [usize; 2]) -> HealthCheck {
        let service = ObjectName { namespace: "default".into(), name: name.into() };
        HealthCheck { service, file: "a.yaml".into(), port, local_ready }
    }

    #[test]
    fn an_answer_is_what_kube_proxy_says() {
        let check = check("web", 1, [2, 0]);
        let response = page(&check, 0, true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], "2");
        assert_eq!(
            response.body(),
            "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\
             \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        for (family, keeps_up) in [(1, true), (0, false)] {
            assert_eq!(page(&check, family, keeps_up).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }

    /// The first line and the body, or nothing if nobody listens.
    fn ask(to: SocketAddr) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        stream.write_all(b"GET /any HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Numbers below those that the kernel gives of its own accord, so that no
    /// other test's connection takes one between two steps of this one.
    fn numbers() -> impl Iterator<Item = u16> {
        let start = 10_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        start..32_000
    }

    /// Opens the next port that is free in both families.
    fn open_next(
        numbers: &mut impl Iterator<Item = u16>,
        ports: &mut HealthPorts,
        name: &str,
        local_ready: [usize; 2],
    ) -> u16 {
        numbers
            .find(|&number| ports.update(&[check(name, number, local_ready)]).is_empty())
            .expect("some port is free")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ports_come_and_go_and_change_hands() {
        let mut ports = HealthPorts::new(Arc::default());
        let v4 = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut numbers = numbers();
        let number = open_next(&mut numbers, &mut ports, "web", [1, 0]);
        let answer = ask(v4(number)).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nX-Load-Balancing-Endpoint-Weight: 1\r\n"), "{answer}");
        assert_eq!(ports.update(&[check("other", number, [0, 0])]), []);
        let answer = ask(v4(number)).unwrap();
        assert!(answer.starts_with("HTTP/1.0 503 ") && answer.contains("\"other\""), "{answer}");
        ports.update(&[]);
        // The task ends soon, not at once.
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(v4(number)).is_some() {
            assert!(Instant::now() < deadline, "still listening");
            tokio::task::yield_now().await;
        }

        let free = open_next(&mut numbers, &mut ports, "b", [1, 1]);
        let mut listeners =
            numbers.filter_map(|number| TcpListener::bind(("0.0.0.0", number)).ok());
        let taken = listeners.next().unwrap();
        let number = taken.local_addr().unwrap().port();
        let checks = [check("a", number, [1, 1]), check("b", free, [1, 1])];
        let problems = ports.update(&checks);
        assert_eq!(problems.len(), 1);
        let text = problems[0].to_string();
        let start = "a.yaml: Service default/a: spec.healthCheckNodePort: can't be listened on";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(&format!("(0.0.0.0:{number}: Address already in use")), "{text}");
        assert!(ask(v4(free)).is_some());
        drop(taken);
        assert_eq!(ports.update(&checks), []);
        assert!(ask(v4(number)).is_some());
    }
}
