//! `POST /v1/namespaces/{namespace}/runs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use runtimed_api::MAX_OBJECT_BYTES;
use runtimed_api::ids::{Namespace, RunName, RunUid, SecretName};
use runtimed_api::policy::{judge, judge_shape};
use runtimed_api::problem::{Code, Problem};
use runtimed_api::rule::{Refusal, Rule};
use runtimed_api::run::Run;
use runtimed_api::run::limits::Limits;
use runtimed_api::session::{MAX_SECRETS_BYTES, SecretValue, Submission};
use runtimed_api::tokens::Role;
use runtimed_api::trace::{self, TraceContext};
use uuid::Uuid;

use super::answer::{Answer, Failure, invalid};
use super::{App, Shared, audit, body, sources};
use crate::auth::{allow, suffix};
use crate::core::{Record, RunKey, Submitted};
use crate::engine::Created;

/// The largest submitted secret, in bytes.
const MAX_SECRET: usize = 64 * 1024;
/// Secrets of one submission at most.
const MAX_SECRETS: usize = 32;
/// The largest body: a Run, and secrets in base64.
const MAX_BODY: usize = MAX_OBJECT_BYTES + MAX_SECRETS_BYTES * 4 / 3 + 64 * 1024;
/// Names that are tried for a `generateName`.
const NAMES: usize = 8;

pub(super) async fn submit(
    State(app): Shared,
    Path(namespace): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Stored, Response> {
    let began = Instant::now();
    let answer = take(&app, &namespace, &headers, body).await;
    let denied = answer.as_ref().err().and_then(|response| response.extensions().get::<Code>().copied());
    app.metrics.answered(began.elapsed(), denied);
    answer
}

async fn take(app: &App, namespace: &str, headers: &HeaderMap, body: Body) -> Result<Stored, Response> {
    let person = app.authority.person(headers).map_err(Failure)?;
    let namespace: Namespace = namespace.parse().map_err(Failure::from)?;
    allow(&person, Role::Submitter, &namespace).map_err(Failure)?;
    let submission: Submission = body::json(body, MAX_BODY).await?;
    let Submission { run, secrets } = submission;
    if !person.may_run_on(&run.spec.runtime) {
        let message = format!("{} may not use Runtime {}", person.subject, run.spec.runtime);
        return Err(Failure(Problem::new(Code::Forbidden, message)).into());
    }
    let limits = check(app, &namespace, &run, &secrets)?;
    sources::check(app, &namespace, &run).await?;
    let queue = limits.queue.or(Limits::BUILT_IN.queue).ok_or_else(|| invalid("no limit of the queue"))?;

    let mut submitted = Submitted {
        key: RunKey { namespace, name: name_of(&run)? },
        uid: new_uid()?,
        generate_name: run.metadata.generate_name.clone(),
        labels: run.metadata.labels,
        spec: run.spec,
        requested_by: person.subject,
        trace: trace(headers),
        queue,
        submitted_secrets: !secrets.is_empty(),
    };
    for _ in 0..NAMES {
        let record = Record::submitted(submitted.clone(), Timestamp::now());
        let generated = submitted.generate_name.clone();
        match (app.engine.submit(record, secrets.clone()).await, generated) {
            (Ok(Created { run, new: true }), _) => {
                return Ok(stored(StatusCode::CREATED, submitted.key.name, run));
            }
            (Ok(Created { run, new: false }), None) => {
                return Ok(stored(StatusCode::OK, submitted.key.name, run));
            }
            // A generated name that is taken is another's, whatever its spec.
            (Ok(Created { new: false, .. }), Some(start)) => submitted.key.name = generate(&start)?,
            (Err(denied), Some(start)) if denied.problem.code == Code::Conflict => {
                submitted.key.name = generate(&start)?;
            }
            (Err(denied), _) => return Err(denied.into_response()),
        }
    }
    let problem = Problem::new(Code::Conflict, "no free name was found").hint("choose another generateName");
    Err(Failure(problem).into())
}

/// The answer to a submission: the Run, and its name for the audit.
type Stored = (StatusCode, Extension<audit::Submitted>, Json<Run>);

fn stored(status: StatusCode, name: RunName, run: Run) -> Stored {
    (status, Extension(audit::Submitted(name)), Json(run))
}

/// Judges a submission; what it gets of limits is the answer.
fn check(
    app: &App,
    namespace: &Namespace,
    run: &Run,
    secrets: &BTreeMap<SecretName, SecretValue>,
) -> Answer<Limits> {
    let size = serde_json::to_vec(run).map_or(usize::MAX, |bytes| bytes.len());
    if size > MAX_OBJECT_BYTES {
        let message = format!("the Run is {size} bytes of JSON, and {MAX_OBJECT_BYTES} is the bound");
        return Err(Failure(Problem::new(Code::TooLarge, message)));
    }
    if run.metadata.namespace.as_ref().is_some_and(|given| given != namespace) {
        return Err(invalid(format!("metadata.namespace is not {namespace}, as in the path")));
    }
    let mut refusals = judge_shape(run).err().unwrap_or_default();
    refusals.extend(secret_refusals(run, secrets));
    let mut granted = None;
    match app.runtimes.now().serving(&run.spec.runtime, namespace) {
        Ok(runtime) => match judge(&run.spec, &runtime.spec.defaults, &runtime.spec.ceiling, &[]) {
            Ok(got) => granted = Some(got.limits),
            Err(broken) => refusals.extend(broken),
        },
        Err(refusal) => refusals.push(refusal),
    }
    match granted {
        Some(limits) if refusals.is_empty() => Ok(limits),
        _ => Err(Failure(Problem::refused(refusals))),
    }
}

fn secret_refusals(run: &Run, secrets: &BTreeMap<SecretName, SecretValue>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if secrets.len() > MAX_SECRETS {
        refusals.push(Refusal::new(
            Rule::SPEC_TOO_MANY,
            "secrets",
            format!("more than {MAX_SECRETS} secrets"),
        ));
    }
    if secrets.values().map(|value| value.expose().len()).sum::<usize>() > MAX_SECRETS_BYTES {
        let message = format!("they are larger than {MAX_SECRETS_BYTES} bytes together");
        refusals.push(Refusal::new(Rule::SPEC_TOO_MANY, "secrets", message));
    }
    let mut used: BTreeSet<&SecretName> = run.spec.secrets.iter().map(|secret| &secret.name).collect();
    used.extend(run.spec.source.as_ref().and_then(|source| source.credential()));
    for (name, value) in secrets {
        let subject = format!("secrets.{name}");
        if !used.contains(name) {
            let refusal =
                Refusal::new(Rule::SECRET_UNKNOWN, &subject, "it is submitted, and the Run does not use it");
            refusals.push(refusal.hint(format!("add `{{ name: {name} }}` to spec.secrets")));
        }
        if value.expose().len() > MAX_SECRET {
            let message = format!("it is larger than {MAX_SECRET} bytes");
            refusals.push(Refusal::new(Rule::SPEC_TOO_MANY, subject, message));
        }
    }
    refusals
}

/// The trace that the submitter is in; one that is not well formed is none.
fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    TraceContext::read(text(trace::TRACEPARENT)?, text(trace::TRACESTATE))
}

fn name_of(run: &Run) -> Answer<RunName> {
    match (&run.metadata.name, &run.metadata.generate_name) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(start)) => generate(start),
        (None, None) => Err(invalid("either name or generateName is needed")),
    }
}

fn generate(start: &str) -> Answer<RunName> {
    Ok(format!("{start}{}", suffix()).parse()?)
}

fn new_uid() -> Answer<RunUid> {
    Ok(Uuid::now_v7().to_string().parse()?)
}
