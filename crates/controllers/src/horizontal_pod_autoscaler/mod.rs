//! HorizontalPodAutoscaler controller: sizes what can be scaled after what it is measured to need.
//! Reads HorizontalPodAutoscaler, Pod, the metrics APIs, scale subresources. Writes scales, HorizontalPodAutoscaler.status.
//! Source: autoscaling/v2 docs, KEP-853 (behavior).
//!
//! [`metrics`] asks, [`replicas`] turns values into a size, [`scaling`] says what of it is done now.

mod metrics;
mod replicas;
mod scaling;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::{Format, Quantity as Amount};
use client::{Event, EventType, Informer, ObjectKey, WorkQueue};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::PostParams;
use kube::core::DynamicObject;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::metrics::Metrics;
use self::replicas::{Pods, Proposal, Startup, Tolerances};
use self::scaling::{Bounds, Memory};
use crate::api_error::ApiErrorExt;
use crate::clock;
use crate::discovery::{Discovered, discover};
use crate::reconcile::{ReconcileError, Reconciler, Requeue, work};
use crate::spec::{ControllerSpec, Ctx};

pub(crate) const CONTROLLER: ControllerSpec = ControllerSpec {
    name: "horizontal-pod-autoscaler-controller",
    alias: "horizontalpodautoscaling",
    account: "horizontal-pod-autoscaler",
    on_by_default: true,
    run: |ctx| run(ctx).boxed(),
};

const WORKERS: usize = 5;
/// Time between two looks at one autoscaler (`--horizontal-pod-autoscaler-sync-period`'s default).
const PERIOD: Duration = Duration::from_secs(15);
/// `--horizontal-pod-autoscaler-downscale-stabilization`'s default.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// `--horizontal-pod-autoscaler-tolerance`'s default.
const TOLERANCE: f64 = 0.1;
/// Defaults of `--horizontal-pod-autoscaler-cpu-initialization-period` and `-initial-readiness-delay`.
const STARTUP: Startup =
    Startup { cpu_initialization: SignedDuration::from_mins(5), initial_readiness: SignedDuration::from_secs(30) };
/// How long what the server serves is believed.
const DISCOVERY_TTL: Duration = Duration::from_secs(30);

struct Controller {
    ctx: Ctx,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
    /// The selector each autoscaler works with, to find those that want the same pods.
    selectors: Mutex<HashMap<ObjectKey, api::selector::LabelSelector>>,
    discovered: tokio::sync::Mutex<Option<(Instant, Arc<Discovered>)>>,
}

async fn run(ctx: Ctx) {
    let autoscalers = ctx.informers.informer::<HorizontalPodAutoscaler>();
    let pods = ctx.informers.informer::<Pod>();
    let queue = WorkQueue::default();
    autoscalers.on_event({
        let queue = queue.clone();
        move |event| {
            // Our own writes of the status are no reason to look again before the period is over.
            if !matches!(event, Event::Updated { old, new } if old.spec == new.spec) {
                queue.add(ObjectKey::of(event.object().as_ref()));
            }
        }
    });
    autoscalers.has_synced().await;
    pods.has_synced().await;
    let controller = Controller {
        ctx: ctx.clone(),
        autoscalers,
        pods,
        memories: Mutex::default(),
        selectors: Mutex::default(),
        discovered: tokio::sync::Mutex::default(),
    };
    work(&ctx, CONTROLLER.name, Arc::new(controller), queue, WORKERS).await;
}

impl Reconciler for Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, ReconcileError> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.memories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(Requeue::Never);
        };
        let mut sync = Sync {
            controller: self,
            key,
            autoscaler: &autoscaler,
            status: autoscaler.status.clone().unwrap_or_default(),
        };
        // A failure is told in conditions and events, and tried again after the same time as a success.
        if let Err(failure) = Box::pin(sync.run()).await {
            tracing::debug!(%key, failure, "not scaled");
        }
        let status = sync.status;
        if Some(&status) != autoscaler.status.as_ref() {
            let changed = HorizontalPodAutoscaler { status: Some(status), ..autoscaler.as_ref().clone() };
            let api = self.ctx.connection.namespaced::<HorizontalPodAutoscaler>(&key.namespace);
            if let Err(error) = api.replace_status(&key.name, &PostParams::default(), &changed).await {
                let text = error.text();
                self.ctx.events.event(autoscaler.as_ref(), EventType::Warning, "FailedUpdateStatus", text);
            }
        }
        Ok(Requeue::After(PERIOD))
    }
}

impl Controller {
    /// What the server serves, not older than [`DISCOVERY_TTL`].
    async fn discovered(&self) -> Result<Arc<Discovered>, kube::Error> {
        let mut cached = self.discovered.lock().await;
        if let Some((at, discovered)) = cached.as_ref().filter(|(at, _)| at.elapsed() < DISCOVERY_TTL) {
            let _ = at;
            return Ok(discovered.clone());
        }
        let discovered = Arc::new(discover(&self.ctx.connection).await?);
        *cached = Some((Instant::now(), discovered.clone()));
        Ok(discovered)
    }
}

/// One look at one autoscaler.
struct Sync<'a> {
    controller: &'a Controller,
    key: &'a ObjectKey,
    autoscaler: &'a HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
}

/// What a metric asks for.
struct Wanted {
    replicas: i32,
    /// How reasons and conditions name the metric.
    name: String,
    status: MetricStatus,
}

/// Why a metric says nothing: the condition's reason and text, and the error with what it was wrapped in.
struct Unusable {
    reason: &'static str,
    message: String,
    error: String,
}

impl Sync<'_> {
    fn event(&self, type_: EventType, reason: &str, message: String) {
        self.controller.ctx.events.event(self.autoscaler, type_, reason, message);
    }

    fn set_condition(&mut self, type_: &str, status: bool, reason: &str, message: &str) {
        set_condition(&mut self.status, type_, status, reason, message);
    }

    async fn run(&mut self) -> Result<(), String> {
        let spec = &self.autoscaler.spec;
        let (api, mut scale) = match self.scale().await {
            Ok(found) => found,
            Err(error) => {
                self.event(EventType::Warning, "FailedGetScale", error.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                self.set_condition("AbleToScale", false, "FailedGetScale", &message);
                return Err(error);
            }
        };
        const GOT_SCALE: &str = "the HPA controller was able to get the target's current scale";
        self.set_condition("AbleToScale", true, "SucceededGetScale", GOT_SCALE);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let now = Instant::now();
        self.with_memory(|memory| memory.begin(current, now));
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let mut reason = String::new();
        let mut statuses = Vec::new();
        let mut failure = None;
        let desired = if current == 0 && min != 0 {
            const DISABLED: &str = "scaling is disabled since the replica count of the target is zero";
            self.set_condition("ScalingActive", false, "ScalingDisabled", DISABLED);
            current
        } else if current > max {
            reason.push_str("Current number of replicas above Spec.MaxReplicas");
            max
        } else if current < min {
            reason.push_str("Current number of replicas below Spec.MinReplicas");
            min
        } else {
            let measured = self.measure(&scale, &mut statuses).await;
            let (wanted, name) = match measured {
                Ok((wanted, name, partly)) => {
                    failure = partly;
                    (wanted, name)
                }
                Err(error) => {
                    self.status.current_replicas = Some(current).filter(|current| *current != 0);
                    self.status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
                    self.event(EventType::Warning, "FailedComputeMetricsReplicas", error.clone());
                    return Err(error);
                }
            };
            let wanted = wanted.max(0);
            if wanted > current {
                reason = format!("{name} above target");
            } else if wanted < current {
                reason.push_str("All metrics below target");
            }
            let bounds = Bounds { current, min, max, behavior: spec.behavior.as_ref(), down_window: DOWN_WINDOW };
            let decision = self.with_memory(|memory| memory.decide(wanted, &bounds, now));
            let (able, limited) = (decision.able_to_scale, decision.scaling_limited);
            self.set_condition("AbleToScale", able.0, able.1, able.2);
            self.set_condition("ScalingLimited", limited.0, limited.1, limited.2);
            decision.replicas
        };
        let rescale = desired != current;
        if rescale {
            scale.spec.get_or_insert_default().replicas = Some(desired);
            if let Err(error) = api.replace_scale(&spec.scale_target_ref.name, &PostParams::default(), &scale).await {
                let text = error.text();
                let message = format!("New size: {desired}; reason: {reason}; error: {text}");
                self.event(EventType::Warning, "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {text}");
                self.set_condition("AbleToScale", false, "FailedUpdateScale", &message);
                self.status.current_replicas = Some(current).filter(|current| *current != 0);
                return Err(text);
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            self.set_condition("AbleToScale", true, "SucceededRescale", &message);
            self.event(EventType::Normal, "SuccessfulRescale", format!("New size: {desired}; reason: {reason}"));
            self.with_memory(|memory| memory.changed(current, desired, now));
            self.status.last_scale_time = Some(clock::now());
        }
        self.status.current_replicas = Some(current).filter(|current| *current != 0);
        self.status.desired_replicas = desired;
        self.status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
        failure.map_or(Ok(()), Err)
    }

    fn with_memory<R>(&self, act: impl FnOnce(&mut Memory) -> R) -> R {
        act(self.controller.memories.lock().entry(self.key.clone()).or_default())
    }

    /// The target's scale, and where it is written.
    async fn scale(&self) -> Result<(Api<DynamicObject>, Scale), String> {
        let target = &self.autoscaler.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("");
        let group = match version.split('/').collect::<Vec<_>>()[..] {
            [_] => "",
            [group, _] => group,
            _ => return Err(format!("unexpected GroupVersion string: {version}")),
        };
        let discovered = self.controller.discovered().await.map_err(|error| error.text())?;
        let is_it = |one: &&crate::discovery::Resource| one.api.kind == target.kind && one.api.group == group;
        let Some(resource) = discovered.resources.iter().find(is_it) else {
            return Err(format!("no matches for kind \"{}\" in group \"{group}\"", target.kind));
        };
        let client = self.controller.ctx.connection.client();
        let api = Api::<DynamicObject>::namespaced_with(client, &self.key.namespace, &resource.api);
        let scale = api.get_scale(&target.name).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 && status.details.is_none() => {
                "the server could not find the requested resource".to_owned()
            }
            error => error.text(),
        })?;
        Ok((api, scale))
    }

    /// The highest number of replicas that a metric asks for, with its name; and the error of metrics that say nothing, when the
    /// others are enough to grow.
    async fn measure(
        &mut self,
        scale: &Scale,
        statuses: &mut Vec<MetricStatus>,
    ) -> Result<(i32, String, Option<String>), String> {
        let selector = self.selector(scale)?;
        let text = selector.to_string();
        let takes = |pod: &Arc<Pod>| {
            let labels = pod.metadata.labels.as_ref();
            selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
        };
        let pods: Vec<Arc<Pod>> =
            self.controller.pods.by_namespace(&self.key.namespace).into_iter().filter(takes).collect();
        let discovered = self.controller.discovered().await.map_err(|error| error.text())?;
        let metrics = Metrics { connection: &self.controller.ctx.connection, discovered: &discovered };
        let specs = self.autoscaler.spec.metrics.clone().unwrap_or_default();
        let (mut best, mut name) = (0, String::new());
        let (mut n_unusable, mut first): (usize, Option<Unusable>) = (0, None);
        for spec in &specs {
            match self.wanted(&metrics, spec, scale, &text, &pods).await {
                Ok(wanted) => {
                    statuses.push(wanted.status);
                    if best == 0 || wanted.replicas > best {
                        (best, name) = (wanted.replicas, wanted.name);
                    }
                }
                Err(unusable) => {
                    statuses.push(MetricStatus::default());
                    self.event(EventType::Warning, unusable.reason, unusable.message.clone());
                    n_unusable += 1;
                    first.get_or_insert(unusable);
                }
            }
        }
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let failure = first.as_ref().map(|first| {
            let (total, error) = (specs.len(), &first.error);
            format!("invalid metrics ({n_unusable} invalid out of {total}), first error is: {error}")
        });
        match (first, failure) {
            (Some(first), Some(failure)) if n_unusable >= specs.len() || best < current => {
                let message = format!("the HPA was unable to compute the replica count: {}", first.message);
                self.set_condition("ScalingActive", false, first.reason, &message);
                Err(failure)
            }
            (_, failure) => {
                let message = format!("the HPA was able to successfully calculate a replica count from {name}");
                self.set_condition("ScalingActive", true, "ValidMetricFound", &message);
                Ok((best, name, failure))
            }
        }
    }

    /// The selector of the target's pods, when no other autoscaler works with them.
    fn selector(&mut self, scale: &Scale) -> Result<api::selector::LabelSelector, String> {
        let text = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or("");
        if text.is_empty() {
            const REQUIRED: &str = "selector is required";
            self.event(EventType::Warning, "SelectorRequired", REQUIRED.to_owned());
            const MISSING: &str = "the HPA target's scale is missing a selector";
            self.set_condition("ScalingActive", false, "InvalidSelector", MISSING);
            return Err(REQUIRED.to_owned());
        }
        let selector = match api::selector::LabelSelector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let message =
                    format!("couldn't convert selector into a corresponding internal selector object: {error}");
                self.event(EventType::Warning, "InvalidSelector", message.clone());
                self.set_condition("ScalingActive", false, "InvalidSelector", &message);
                return Err(message);
            }
        };
        let rivals = self.rivals(&selector);
        if rivals.len() > 1 {
            let list = rivals.join(" ");
            let message = format!("pods by selector {text} are controlled by multiple HPAs: [{list}]");
            self.event(EventType::Warning, "AmbiguousSelector", message.clone());
            self.set_condition("ScalingActive", false, "AmbiguousSelector", &message);
            return Err(message);
        }
        Ok(selector)
    }

    /// The autoscalers, this one among them, that work with a pod of this selector.
    fn rivals(&self, selector: &api::selector::LabelSelector) -> Vec<String> {
        let mut selectors = self.controller.selectors.lock();
        selectors.insert(self.key.clone(), selector.clone());
        let takes = |selector: &api::selector::LabelSelector, pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
        };
        let mut pods = self.controller.pods.by_namespace(&self.key.namespace);
        pods.retain(|pod| takes(selector, pod));
        let in_namespace = selectors.iter().filter(|(key, _)| key.namespace == self.key.namespace);
        let rivals = in_namespace
            .filter(|(key, other)| *key == self.key || pods.iter().any(|pod| takes(other, pod)))
            .map(|(key, _)| key.to_string());
        let mut rivals: Vec<String> = rivals.collect();
        rivals.sort();
        rivals
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.autoscaler.spec.behavior.as_ref();
        let of = |rules: Option<&HPAScalingRules>| {
            let tolerance = rules.and_then(|rules| rules.tolerance.as_ref());
            let amount = tolerance.and_then(|tolerance| tolerance.0.trim().parse::<Amount>().ok());
            amount.map_or(TOLERANCE, |amount| amount.to_f64())
        };
        Tolerances {
            down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
            up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        }
    }

    /// What one metric asks for.
    async fn wanted(
        &self,
        metrics: &Metrics<'_>,
        spec: &MetricSpec,
        scale: &Scale,
        selector: &str,
        pods: &[Arc<Pod>],
    ) -> Result<Wanted, Unusable> {
        let namespace = self.key.namespace.as_str();
        let refs: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
        let pods = Pods { pods: &refs, tolerances: self.tolerances(), startup: STARTUP, now: Timestamp::now() };
        let spec_replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let status_replicas = scale.status.as_ref().map_or(0, |status| status.replicas);
        if let Some(resource) = &spec.resource {
            let name = &resource.name;
            let measured =
                usage(metrics, &pods, &resource.target, spec_replicas, name, None, namespace, selector).await;
            let proposal = measured.map_err(|error| Unusable {
                reason: "FailedGetResourceMetric",
                error: format!("failed to get {name} resource metric value: {error}"),
                message: error,
            })?;
            let by_percent = resource.target.average_value.is_none();
            let suffix = if by_percent { "resource utilization (percentage of request)" } else { "resource" };
            let current = current_usage(&proposal);
            let status = ResourceMetricStatus { name: name.clone(), current };
            let status = MetricStatus { type_: spec.type_.clone(), resource: Some(status), ..MetricStatus::default() };
            return Ok(Wanted { replicas: proposal.replicas, name: format!("{name} {suffix}"), status });
        }
        if let Some(resource) = &spec.container_resource {
            let (name, container) = (&resource.name, &resource.container);
            let container_name = Some(container.as_str());
            let measured =
                usage(metrics, &pods, &resource.target, spec_replicas, name, container_name, namespace, selector).await;
            let proposal = measured.map_err(|error| Unusable {
                reason: "FailedGetContainerResourceMetric",
                error: format!("failed to get {container} container metric value: {error}"),
                message: error,
            })?;
            let by_percent = resource.target.average_value.is_none();
            let suffix = if by_percent { "container resource utilization (percentage of request)" } else { "resource" };
            let status = ContainerResourceMetricStatus {
                name: name.clone(),
                container: container.clone(),
                current: current_usage(&proposal),
            };
            let status =
                MetricStatus { type_: spec.type_.clone(), container_resource: Some(status), ..MetricStatus::default() };
            return Ok(Wanted { replicas: proposal.replicas, name: format!("{name} {suffix}"), status });
        }
        if let Some(of_pods) = &spec.pods {
            let target = milli(of_pods.target.average_value.as_ref());
            let measured = match metrics.pods(&of_pods.metric, namespace, selector).await {
                Ok(samples) => pods.by_average(spec_replicas, target, false, samples),
                Err(error) => Err(error),
            };
            let proposal = measured.map_err(|error| Unusable {
                reason: "FailedGetPodsMetric",
                error: format!("failed to get pods metric value: {error}"),
                message: error,
            })?;
            let status = PodsMetricStatus { metric: of_pods.metric.clone(), current: average(proposal.value) };
            let status = MetricStatus { type_: spec.type_.clone(), pods: Some(status), ..MetricStatus::default() };
            let name = format!("pods metric {}", of_pods.metric.name);
            return Ok(Wanted { replicas: proposal.replicas, name, status });
        }
        if let Some(object) = &spec.object {
            let value = metrics.object(&object.metric, namespace, &object.described_object).await;
            let measured = match value {
                Err(error) => Err(error),
                Ok(value) => outside(&pods, &object.target, spec_replicas, status_replicas, value, "object"),
            };
            let (proposal, current) = measured.map_err(|error| Unusable {
                reason: "FailedGetObjectMetric",
                error: match object.target.type_.as_str() {
                    "AverageValue" => {
                        let name = &object.metric.name;
                        format!("failed to get object metric value: failed to get {name} object metric: {error}")
                    }
                    _ => format!("failed to get object metric value: {error}"),
                },
                message: error,
            })?;
            let name = match object.target.type_.as_str() {
                "Value" => format!("{} metric {}", object.described_object.kind, object.metric.name),
                _ => external_name(&object.metric),
            };
            let status = ObjectMetricStatus {
                described_object: object.described_object.clone(),
                metric: object.metric.clone(),
                current,
            };
            let status = MetricStatus { type_: spec.type_.clone(), object: Some(status), ..MetricStatus::default() };
            return Ok(Wanted { replicas: proposal.replicas, name, status });
        }
        if let Some(external) = &spec.external {
            let metric = &external.metric;
            let value = metrics.external(metric, namespace).await;
            let measured = match value {
                Err(error) => Err(error),
                Ok(value) => outside(&pods, &external.target, spec_replicas, status_replicas, value, "external"),
            };
            let (proposal, current) = measured.map_err(|error| Unusable {
                reason: "FailedGetExternalMetric",
                error: {
                    let name = &metric.name;
                    let what = match external.target.average_value {
                        Some(_) => format!("{name} external metric"),
                        None => format!("external metric {name}"),
                    };
                    format!("failed to get {name} external metric value: failed to get {what}: {error}")
                },
                message: error,
            })?;
            let status = ExternalMetricStatus { metric: metric.clone(), current };
            let status = MetricStatus { type_: spec.type_.clone(), external: Some(status), ..MetricStatus::default() };
            return Ok(Wanted { replicas: proposal.replicas, name: external_name(metric), status });
        }
        let error = format!("unknown metric source type \"{}\"", spec.type_);
        Err(Unusable { reason: "InvalidMetricSourceType", message: error.clone(), error })
    }
}

fn external_name(metric: &k8s_openapi::api::autoscaling::v2::MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, metrics::shown(metric.selector.as_ref()))
}

/// What the usage of a resource asks for.
#[allow(clippy::too_many_arguments)]
async fn usage(
    metrics: &Metrics<'_>,
    pods: &Pods<'_>,
    target: &MetricTarget,
    current: i32,
    resource: &str,
    container: Option<&str>,
    namespace: &str,
    selector: &str,
) -> Result<Proposal, String> {
    let samples = metrics.resource(resource, namespace, selector, container).await;
    if target.average_value.is_some() {
        let wrap = |error| format!("failed to get {resource} usage: {error}");
        let average = milli(target.average_value.as_ref());
        return pods.by_average(current, average, resource == "cpu", samples.map_err(wrap)?).map_err(wrap);
    }
    let Some(percent) = target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
    };
    let wrap = |error| format!("failed to get {resource} utilization: {error}");
    pods.by_utilization(current, percent, resource, container, samples.map_err(wrap)?).map_err(wrap)
}

/// What a value outside the pods asks for, and how it is shown.
fn outside(
    pods: &Pods<'_>,
    target: &MetricTarget,
    spec_replicas: i32,
    status_replicas: i32,
    value: i64,
    kind: &str,
) -> Result<(Proposal, MetricValueStatus), String> {
    if let Some(share) = &target.average_value {
        let proposal = pods.by_share(status_replicas, milli(Some(share)), value);
        return Ok((proposal, average(proposal.value)));
    }
    let Some(total) = &target.value else {
        return Err(format!(
            "invalid {kind} metric source: neither a value target nor an average value target was set"
        ));
    };
    let proposal = pods.by_total(spec_replicas, milli(Some(total)), value)?;
    Ok((proposal, MetricValueStatus { value: Some(shown(value)), ..MetricValueStatus::default() }))
}

fn milli(quantity: Option<&Quantity>) -> i64 {
    let amount = quantity.and_then(|quantity| quantity.0.trim().parse::<Amount>().ok());
    amount.map_or(0, |amount| amount.milli_value())
}

fn shown(milli: i64) -> Quantity {
    Quantity(Amount::from_milli(milli, Format::DecimalSi).to_string())
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(shown(milli)), ..MetricValueStatus::default() }
}

fn current_usage(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_utilization: proposal.utilization, ..average(proposal.value) }
}

fn set_condition(status: &mut HorizontalPodAutoscalerStatus, type_: &str, value: bool, reason: &str, message: &str) {
    let value = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let index = conditions.iter().position(|one| one.type_ == type_).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            ..HorizontalPodAutoscalerCondition::default()
        });
        conditions.len() - 1
    });
    let condition = &mut conditions[index];
    if condition.status != value {
        condition.last_transition_time = Some(clock::now());
    }
    condition.status = value.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut status = HorizontalPodAutoscalerStatus::default();
        set_condition(&mut status, "AbleToScale", true, "SucceededGetScale", "m");
        let long_ago =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2020-01-01T00:00:00Z".parse().unwrap()));
        status.conditions.as_mut().unwrap()[0].last_transition_time = long_ago.clone();
        set_condition(&mut status, "AbleToScale", true, "ReadyForNewScale", "n");
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!(condition.last_transition_time, long_ago);
        assert_eq!(condition.reason.as_deref(), Some("ReadyForNewScale"));
        set_condition(&mut status, "AbleToScale", false, "FailedGetScale", "o");
        assert_ne!(status.conditions.unwrap()[0].last_transition_time, long_ago);
    }
}
