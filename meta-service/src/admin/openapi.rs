//! The OpenAPI document, made from the handlers.

use std::{collections::HashSet, sync::Arc};

use axum::{
    extract::State,
    http::{Method, header},
    response::IntoResponse,
};
use holdfast_admin_api::BASE;
use utoipa::openapi::{
    OpenApi, SecurityRequirement, Tag,
    info::{InfoBuilder, LicenseBuilder},
    path::{Operation, ParameterIn, PathItem},
    security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::Api;

/// Where the document is. Nobody needs credentials for it.
pub(crate) const PATH: &str = "/api/v1/openapi.json";

/// Everything but the operations.
pub(crate) fn head() -> OpenApi {
    let tags = [
        ("cluster", "The cluster as a whole, gateways"),
        ("sites", "Storage nodes and what moves between them"),
        ("shards", "Shards of the message log"),
        ("sessions", "Sessions, clients and subscriptions"),
        ("access", "Who may use this API"),
    ];
    let tag = |(name, description): (&str, &str)| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    };
    let mut document = OpenApi::default();
    document.info = InfoBuilder::new()
        .title("Holdfast admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    document.tags = Some(tags.into_iter().map(tag).collect());
    let scheme = |scheme| SecurityScheme::Http(Http::new(scheme));
    let mut components = utoipa::openapi::Components::new();
    components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
    components.add_security_scheme("password", scheme(HttpAuthScheme::Basic));
    document.components = Some(components);
    let needs = |name| SecurityRequirement::new::<&str, [&str; 0], &str>(name, []);
    document.security = Some(vec![needs("token"), needs("password")]);
    document
}

const DESCRIPTION: &str = "Shows and steers a Holdfast cluster. Every meta-service serves it; the elected one \
answers. GET needs the role viewer (the backlog of a session: admin), everything else the role admin. Errors are \
application/problem+json; `type` is stable. With 503 ask again after `Retry-After`. Times are milliseconds \
since the Unix epoch, sizes bytes.";

/// The document's text.
pub(crate) fn text(document: &OpenApi) -> String {
    // Serializing strings and maps of strings cannot fail.
    document.to_pretty_json().unwrap_or_default()
}

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let all = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

/// Gives every operation a name of its own, as `put_shards_shard_leader`: clients in other languages are generated
/// by it.
pub(crate) fn name_operations(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let parts = path.strip_prefix(BASE).unwrap_or(path).split(['/', '.']);
        let parts: Vec<&str> = parts
            .map(|part| part.trim_matches(['{', '}']))
            .filter(|part| !part.is_empty())
            .collect();
        let all = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in all {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{}", parts.join("_")));
            }
        }
    }
}

/// Operations that take a query.
pub(crate) fn queried(document: &OpenApi) -> HashSet<(Method, String)> {
    let takes_query = |operation: &Operation| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(|parameter| parameter.parameter_in == ParameterIn::Query)
    };
    let paths = document.paths.paths.iter();
    let of_path = |(path, item): (&String, &PathItem)| {
        let queried = operations(item).filter(|(_, operation)| takes_query(operation));
        queried.map(|(method, _)| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}

/// This document. It needs no credentials.
#[utoipa::path(
    get, path = "/openapi.json", tag = "cluster", security(()),
    responses((status = OK, description = "The OpenAPI document", content_type = "application/json"))
)]
pub(super) async fn document(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], api.document.clone())
}
