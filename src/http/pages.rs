//! Pages for people: the landing page, the documentation, and one page per problem code.
//!
//! They load nothing from elsewhere, so they work offline; the policy header makes browsers hold
//! them to it.

use std::fmt::Write;

use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, VARY};
use http::{HeaderMap, HeaderValue, StatusCode, request};
use serde_json::{Value, json};

use super::app::App;
use super::code::Code;
use super::problem::Problem;
use super::response::{Reply, json as json_reply, typed};
use super::service::Answered;

const STYLE: &str = include_str!("assets/page.css");
const DOCS: &str = include_str!("assets/docs.html");
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'",
);

/// The documentation: a viewer that reads `/openapi.json`.
pub(crate) fn docs() -> Reply {
    html(DOCS.replace("/* page.css */", STYLE))
}

/// What this node is and where to look.
pub(crate) fn landing(app: &App) -> Reply {
    let mut types = String::new();
    for description in app.router.types().iter() {
        let name = escape(description.name);
        let text = escape(description.description);
        // Writing to a string cannot fail.
        write!(
            types,
            "<li><a href=\"/v1/types/{name}\"><code>{name}</code></a> {text}</li>"
        )
        .ok();
    }
    page(
        "Phalanx",
        &format!(
            "<p>This is node {node} of a command model: aggregates live in memory, their events \
             are on disk before a command is answered.</p>\
             <h2>Aggregate types</h2><ul>{types}</ul>\
             <h2>Where to look</h2><ul>\
             <li><a href=\"/docs\">/docs</a> every route, with its schemas</li>\
             <li><a href=\"/openapi.json\">/openapi.json</a> the same for programs</li>\
             <li><a href=\"/v1/types\">/v1/types</a> commands, events, states, justifications</li>\
             <li><a href=\"/problems\">/problems</a> what can go wrong, and what to do</li>\
             <li><a href=\"/v1/cluster\">/v1/cluster</a>, <a href=\"/v1/shards\">/v1/shards</a> \
             members, and who leads what</li>\
             <li><a href=\"/metrics\">/metrics</a> for Prometheus</li>\
             <li><a href=\"/livez?verbose\">/livez</a>, <a href=\"/readyz?verbose\">/readyz</a>, \
             <a href=\"/startupz?verbose\">/startupz</a> health</li></ul>",
            node = app.node_id,
        ),
    )
}

/// All problem codes.
pub(crate) fn problems(parts: &request::Parts) -> Reply {
    if wants_json(&parts.headers) {
        let all: Vec<Value> = Code::ALL.iter().map(|code| as_json(*code)).collect();
        return vary(json_reply(json!({ "problems": all }).to_string()));
    }
    let mut rows = String::new();
    for code in Code::ALL {
        let text = code.describe();
        write!(
            rows,
            "<tr><td>{}</td><td><a href=\"/problems/{name}\"><code>{name}</code></a></td>\
             <td>{}</td></tr>",
            text.status.as_u16(),
            escape(text.title),
            name = text.name,
        )
        .ok();
    }
    vary(page(
        "Problems",
        &format!("<table><tr><th>Status<th>Code<th>Meaning</tr>{rows}</table>"),
    ))
}

/// One problem code.
pub(crate) fn problem(parts: &request::Parts, name: &str) -> Answered {
    let Some(code) = Code::from_name(name) else {
        return Err(Box::new(Problem::new(
            Code::NotFound,
            "no problem has this code; /problems lists them",
        )));
    };
    if wants_json(&parts.headers) {
        return Ok(vary(json_reply(as_json(code).to_string())));
    }
    let text = code.describe();
    Ok(vary(page(
        text.title,
        &format!(
            "<p class=\"meta\"><code>{name}</code> status {status}, {retry}, outcome \
             <code>{outcome}</code></p><h2>Cause</h2><p>{cause}</p><h2>Remedy</h2><p>{remedy}</p>\
             <p><a href=\"/problems\">All problems</a></p>",
            status = text.status.as_u16(),
            retry = if text.retryable {
                "worth a retry"
            } else {
                "not worth a retry as it is"
            },
            outcome = text.outcome.as_str(),
            cause = escape(text.cause),
            remedy = escape(text.remedy),
        ),
    )))
}

fn as_json(code: Code) -> Value {
    let text = code.describe();
    json!({
        "type": format!("/problems/{}", text.name),
        "code": text.name,
        "status": text.status.as_u16(),
        "title": text.title,
        "retryable": text.retryable,
        "outcome": text.outcome.as_str(),
        "cause": text.cause,
        "remedy": text.remedy,
    })
}

/// HTML unless only JSON is asked for: people follow these links.
fn wants_json(headers: &HeaderMap) -> bool {
    let mut json = false;
    for value in headers.get_all(ACCEPT) {
        let value = value.as_bytes().to_ascii_lowercase();
        let has = |needle: &[u8]| value.windows(needle.len()).any(|part| part == needle);
        if has(b"text/html") {
            return false;
        }
        json |= has(b"/json") || has(b"+json");
    }
    json
}

fn vary(mut reply: Reply) -> Reply {
    let value = HeaderValue::from_static("accept");
    reply.headers_mut().insert(VARY, value);
    reply
}

fn page(title: &str, content: &str) -> Reply {
    let title = escape(title);
    html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\
         <body><header><a href=\"/\">Phalanx</a></header><main><h1>{title}</h1>{content}</main>\
         </body></html>"
    ))
}

fn html(content: String) -> Reply {
    let mut reply = typed(StatusCode::OK, "text/html; charset=utf-8", content);
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    reply
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Backticks mark code in our own texts; on a page they only disturb.
            '`' => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(value));
        wants_json(&headers)
    }

    #[test]
    fn people_get_html_and_programs_json() {
        assert!(accepts("application/json") && accepts("application/problem+json, */*"));
        assert!(!accepts(
            "text/html,application/xhtml+xml,application/json;q=0.9"
        ));
        assert!(!accepts("*/*") && !wants_json(&HeaderMap::new()));
    }

    #[test]
    fn pages_load_nothing_from_elsewhere() {
        for text in [DOCS, STYLE] {
            for foreign in ["http://", "https://", "//cdn", "@import", "url("] {
                assert!(!text.contains(foreign), "{foreign}");
            }
        }
        assert!(DOCS.contains("/* page.css */") && DOCS.contains("/openapi.json"));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escape("<a href=\"x\">&`"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
    }
}
