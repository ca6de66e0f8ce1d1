//! `explain request`: what became of one of the last requests, as the router that carried it remembers it.

use cell_chaos::fleet::ask;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::cli::{Global, Output};
use crate::console;
use crate::endpoints;
use crate::failure::{Exit, Failure};
use crate::view::API_VERSION;

/// Asks every router: nobody else knows which of them carried it.
pub(super) async fn explain(global: &Global, id: &str, said: &[String]) -> Result<Exit, Failure> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#%".contains(&byte)) {
        let hint = "it is the value of x-request-id in the answer";
        return Err(Failure::usage(format!("{id:?} is no id of a request"), hint));
    }
    let routers = endpoints::routers(global, said)?;
    let path = format!("/debug/request/{id}");
    let answers = join_all(routers.iter().map(async |router| (router, ask(router, &path).await))).await;
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (router, answer) in answers {
        match answer {
            Ok((200, text)) => match serde_json::from_str::<Value>(&text) {
                Ok(record) => found.push((router.as_str(), record)),
                Err(error) => silent.push(format!("{router}: {error}")),
            },
            Ok((404, _)) => {}
            Ok((status, text)) => silent.push(format!("{router}: {status} {text}")),
            Err(reason) => silent.push(reason),
        }
    }
    for reason in &silent {
        console::note(&format!("not asked: {reason}"));
    }
    if found.is_empty() {
        return Err(missing(id, routers.len(), silent.len()));
    }
    console::data(&match global.output {
        Output::Json => {
            let items: Vec<Value> = found
                .into_iter()
                .map(|(router, request)| json!({ "router": router, "request": request }))
                .collect();
            let all = json!({ "apiVersion": API_VERSION, "kind": "RequestExplanation", "items": items });
            format!("{all:#}\n")
        }
        Output::Name => format!("request/{id}\n"),
        Output::Table | Output::Html => {
            found.iter().map(|(router, record)| told(router, record)).collect::<Vec<_>>().join("\n")
        }
    });
    Ok(Exit::Done)
}

fn missing(id: &str, asked: usize, silent: usize) -> Failure {
    if silent == asked {
        return Failure {
            exit: Exit::Unavailable,
            ..Failure::new("ROUTERS_SILENT", "no router has answered", "are these the addresses of their metrics?")
        };
    }
    let answered = asked - silent;
    let message = format!("none of {answered} routers that answered remembers a request {id}");
    let hint =
        "a router remembers its last requests only (limits.remembered-requests); older ones are in its access log";
    Failure::new("REQUEST_UNKNOWN", message, hint)
}

/// What a router says, in the order in which it happened.
fn told(router: &str, record: &Value) -> String {
    let text = |key: &str| match &record[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let millis = |key: &str| record[key].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    let mut lines = vec![
        format!("request   {} {} by router {router}", text("method"), text("request_id")),
        format!("tenant    {} (tier {})", text("tenant"), text("tier")),
        format!(
            "mapping   cell {}, epoch {}, revision {}; the table was complete to {}",
            text("cell"),
            text("epoch"),
            text("mapping_revision"),
            text("table_revision")
        ),
        format!("held      {} while the tenant moved", millis("held_ms")),
        format!("queued    {} for its turn; the cell got {} at once", millis("queued_ms"), text("cell_limit")),
        format!("sent      {} times, last to {}", text("attempts"), text("instance")),
        format!("answered  {} after {}", text("status"), millis("took_ms")),
    ];
    if !record["code"].is_null() {
        lines.push(format!("refused   {}: {}", text("code"), text("detail")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_in_order_and_a_refusal_with_its_code() {
        let record = json!({
            "request_id": "r-1", "method": "PUT", "tenant": "acme", "tier": "gold", "cell": "cell-2", "epoch": 3,
            "mapping_revision": 71, "table_revision": 80, "instance": "10.0.0.7:80", "attempts": 2, "held_ms": 18.24,
            "queued_ms": 0.0, "cell_limit": 64, "status": 503, "code": "TENANT_MOVING", "detail": "it moves",
            "took_ms": 21.0,
        });
        let told = told("10.0.1.1:9901", &record);
        assert!(told.contains("cell cell-2, epoch 3, revision 71"), "{told}");
        assert!(told.contains("held      18.2 ms") && told.contains("refused   TENANT_MOVING: it moves"), "{told}");
    }

    #[test]
    fn silence_is_no_knowledge() {
        assert_eq!(
            (missing("r", 2, 2).code.as_str(), missing("r", 2, 2).exit),
            ("ROUTERS_SILENT", Exit::Unavailable)
        );
        assert_eq!(missing("r", 2, 1).code, "REQUEST_UNKNOWN");
    }
}
