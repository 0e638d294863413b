//! One Gateway, or the classes, brought to what they should be: asks the pure parts, then writes. Called by `run`.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{
    CLASS, FIELD_MANAGER, ISTIO_CLASS, Part,
    gateway::{GATEWAY_NAME, Gateway},
    overlay::Overlay,
    plan::{self, Step},
    run::Deployer,
    status::{self, Fault, Standing},
    template,
};
use crate::{
    conditions::{CONTROLLER, refusal, timestamp},
    mirror::Name,
};

/// A call that takes longer has failed; shorter than a lease, so that no late write meets another leader's.
const CALL: Duration = Duration::from_secs(4);

impl Deployer {
    pub(super) async fn settle_classes(&mut self) -> Result<(), String> {
        let mut names = vec![CLASS];
        if self.settings.claim_istio_class {
            names.push(ISTIO_CLASS);
        }
        let classes = self.class_api();
        for name in names {
            if self.classes.find("", name).is_some() {
                continue;
            }
            let class = json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": { "name": name },
                "spec": { "controllerName": CONTROLLER, "description": "Waypoints of the Causeway mesh" },
            });
            call(classes.patch(
                name,
                &PatchParams::apply(FIELD_MANAGER),
                &Patch::Apply(&class),
            ))
            .await?;
        }
        for ((_, name), class) in self.classes.all() {
            if class["spec"]["controllerName"] != CONTROLLER {
                if self.settings.claim_istio_class
                    && name == ISTIO_CLASS
                    && self.told.insert(ISTIO_CLASS)
                {
                    let owner = class["spec"]["controllerName"].as_str().unwrap_or_default();
                    tracing::warn!(
                        owner,
                        "CLAIM_ISTIO_WAYPOINT: the class istio-waypoint is another controller's and stays so"
                    );
                }
                continue;
            }
            let generation = class["metadata"]["generation"].as_i64().unwrap_or_default();
            if let Some(status) = status::of_class(class, generation, &timestamp()) {
                let version = class["metadata"]["resourceVersion"].clone();
                let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
                call(classes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)))
                    .await?;
            }
        }
        Ok(())
    }

    fn class_api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass");
        Api::all_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "gatewayclasses"),
        )
    }

    /// A Gateway that is gone needs nothing: Kubernetes deletes what it owned.
    pub(super) async fn settle_one(&mut self, (namespace, name): &Name) -> Result<(), String> {
        let Some(gateway) = self.gateways.find(namespace, name).cloned() else {
            return Ok(());
        };
        let class = self.classes.find("", &gateway.spec.gateway_class_name);
        let ours = class.is_some_and(|class| class["spec"]["controllerName"] == CONTROLLER);
        if !ours || gateway.deleting {
            return Ok(());
        }
        let mut standing = Standing {
            switched_off: self.settings.image.is_empty(),
            ..Standing::default()
        };
        let mut failed = Ok(());
        if let Some(why) = self.refused.get(&(namespace.clone(), name.clone())) {
            standing.fault = Some(Fault::Invalid(why.clone()));
        } else if !standing.switched_off && !gateway.is_placed_by_hand() {
            match self.deploy(&gateway).await {
                Ok(()) => {}
                Err(Trouble::Standing(fault)) => standing.fault = Some(fault),
                Err(Trouble::Passing(why)) => failed = Err(why),
            }
        }
        standing.service = self.made(Part::Service, &gateway);
        standing.deployment = self.made(Part::Deployment, &gateway);
        if let Some(status) =
            status::of_gateway(&gateway, &standing, &self.settings.domain, &timestamp())
        {
            self.write_status(&gateway, &status).await?;
            // What cannot be read has its event already.
            if let Some(fault) = standing
                .fault
                .as_ref()
                .filter(|fault| !matches!(fault, Fault::Invalid(_)))
            {
                self.tell(&gateway, fault.text()).await;
            }
        }
        failed
    }

    async fn write_status(&self, gateway: &Gateway, status: &Value) -> Result<(), String> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway");
        let resource = ApiResource::from_gvk_with_plural(&kind, "gateways");
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            &gateway.namespace,
            &resource,
        );
        let patch = json!({ "metadata": { "resourceVersion": gateway.version }, "status": status });
        let params = PatchParams::default();
        match call_kube(api.patch_status(&gateway.name, &params, &Patch::Merge(&patch))).await {
            // Gone, or a newer one of which the watch will tell.
            Err(Failure {
                code: Some(404 | 409),
                ..
            }) => Ok(()),
            other => other.map(drop).map_err(|failure| failure.why),
        }
    }

    /// An event on the Gateway, with each change of its status; best effort, since the status says the same.
    async fn tell(&self, gateway: &Gateway, why: &str) {
        let regarding = ObjectReference {
            api_version: Some("gateway.networking.k8s.io/v1".into()),
            kind: Some("Gateway".into()),
            name: Some(gateway.name.clone()),
            namespace: Some(gateway.namespace.clone()),
            uid: Some(gateway.uid.clone()),
            ..ObjectReference::default()
        };
        let _ = call_kube(self.recorder.publish(&refusal(why, "Deploy"), &regarding)).await;
    }

    /// What a Gateway has: by name if it is ours, else by the label that ties it to the Gateway.
    fn made(&self, part: Part, gateway: &Gateway) -> Option<Value> {
        let mirror = self.parts.get(&part)?;
        let own = mirror
            .find(&gateway.namespace, gateway.deployment())
            .filter(|found| plan::belongs(found, gateway));
        let tied = || {
            let mut all = mirror
                .all()
                .filter(|((namespace, _), _)| *namespace == gateway.namespace);
            all.find(|(_, found)| {
                found["metadata"]["labels"][GATEWAY_NAME] == gateway.name.as_str()
            })
            .map(|(_, found)| found)
        };
        own.or_else(|| self.settings.image.is_empty().then(tied).flatten())
            .cloned()
    }

    async fn deploy(&mut self, gateway: &Gateway) -> Result<(), Trouble> {
        let overlays = self.overlays(gateway).await?;
        let wanted = template::render(gateway, &overlays, &self.settings)
            .map_err(|bad| Trouble::Standing(Fault::Parameters(bad.to_string())))?;
        let names: Vec<(Part, String)> = wanted
            .iter()
            .map(|(part, object)| {
                (
                    *part,
                    object["metadata"]["name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                )
            })
            .collect();
        let mut strangers = BTreeMap::new();
        for (part, name) in names {
            // Nothing is made where the watch shows nothing before a look at what others may have there.
            if self.parts[&part].find(&gateway.namespace, &name).is_some() {
                continue;
            }
            let named = ListParams::default().fields(&format!("metadata.name={name}"));
            let api = self.api(part, &gateway.namespace);
            let list = call(api.list(&named)).await.map_err(Trouble::Passing)?;
            strangers.extend(
                list.items
                    .into_iter()
                    .map(|found| ((part, name.clone()), whole(found))),
            );
        }
        let found = |part: Part, name: &str| {
            let known = self.parts[&part].find(&gateway.namespace, name);
            known
                .or_else(|| strangers.get(&(part, name.to_owned())))
                .cloned()
        };
        let mut steps = plan::plan(gateway, wanted, found)
            .map_err(|taken| Trouble::Standing(Fault::Refused(taken.why)))?;
        let all = self.parts.iter().flat_map(|(part, mirror)| {
            let own = mirror
                .all()
                .filter(|((home, _), _)| *home == gateway.namespace);
            own.map(|(_, object)| (*part, object))
        });
        steps.extend(plan::leftovers(gateway, all));
        for step in steps {
            self.write(gateway, step).await?;
        }
        Ok(())
    }

    async fn write(&mut self, gateway: &Gateway, step: Step) -> Result<(), Trouble> {
        match step {
            Step::Delete(part, name) => {
                tracing::info!(
                    kind = part.resource().2,
                    name,
                    namespace = gateway.namespace,
                    "deleted: no overlay asks for it any more"
                );
                match call_kube(
                    self.api(part, &gateway.namespace)
                        .delete(&name, &DeleteParams::default()),
                )
                .await
                {
                    Err(Failure {
                        code: Some(404), ..
                    }) => Ok(()),
                    other => other
                        .map(drop)
                        .map_err(|failure| Trouble::Passing(failure.why)),
                }
            }
            Step::Stop(name) => {
                tracing::info!(
                    name,
                    namespace = gateway.namespace,
                    "stopped: its Gateway's Deployment has another name now"
                );
                let mark = json!({ "annotations": { template::RENDERED: plan::STOPPED } });
                let patch = json!({ "metadata": mark, "spec": { "replicas": 0 } });
                let api = self.api(Part::Deployment, &gateway.namespace);
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                match call_kube(api.patch(&name, &params, &patch)).await {
                    Err(Failure {
                        code: Some(404), ..
                    }) => Ok(()),
                    other => other
                        .map(drop)
                        .map_err(|failure| Trouble::Passing(failure.why)),
                }
            }
            Step::Apply(part, object) => {
                let name = object["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let params = PatchParams::apply(FIELD_MANAGER).force();
                match call_kube(self.api(part, &gateway.namespace).patch(
                    &name,
                    &params,
                    &Patch::Apply(&object),
                ))
                .await
                {
                    Ok(written) => {
                        tracing::info!(
                            kind = part.resource().2,
                            name,
                            namespace = gateway.namespace,
                            "applied"
                        );
                        if let Some(mirror) = self.parts.get_mut(&part) {
                            mirror.wrote((gateway.namespace.clone(), name), whole(written));
                        }
                        Ok(())
                    }
                    // What the API server does not take is not taken the next time either, unless something is changed.
                    Err(Failure {
                        code: Some(400 | 403 | 422),
                        why,
                    }) => {
                        let text =
                            format!("{} {}/{name}: {why}", part.resource().2, gateway.namespace);
                        Err(Trouble::Standing(Fault::Refused(text)))
                    }
                    Err(failure) => Err(Trouble::Passing(failure.why)),
                }
            }
        }
    }

    fn api(&self, part: Part, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(part))
    }

    /// The oldest defaults of its class, then its own.
    async fn overlays(&self, gateway: &Gateway) -> Result<Vec<Overlay>, Trouble> {
        let root = &self.settings.root_namespace;
        let class = Some(&gateway.spec.gateway_class_name);
        let defaults = self
            .config_maps
            .all()
            .filter(|((home, _), map)| home == root && map.defaults_of.as_ref() == class)
            .min_by_key(|(name, map)| (&map.created, *name));
        let own = gateway
            .parameters()
            .map_err(|why| Trouble::Standing(Fault::Parameters(why)))?;
        let named = [
            defaults.map(|((home, name), _)| (home.as_str(), name.as_str())),
            own.map(|name| (gateway.namespace.as_str(), name)),
        ];
        let mut overlays = Vec::new();
        for (namespace, name) in named.into_iter().flatten() {
            let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
            let Some(map) = call(api.get_opt(name)).await.map_err(Trouble::Passing)? else {
                let why = format!(
                    "spec.infrastructure.parametersRef: ConfigMap {namespace}/{name} is not there"
                );
                return Err(Trouble::Standing(Fault::Parameters(why)));
            };
            overlays.push(Overlay {
                source: format!("ConfigMap {namespace}/{name}"),
                texts: map.data.unwrap_or_default(),
            });
        }
        Ok(overlays)
    }
}

enum Trouble {
    /// Stands in the status until somebody changes something.
    Standing(Fault),
    /// Is tried again.
    Passing(String),
}

struct Failure {
    code: Option<u16>,
    why: String,
}

pub(super) fn resource(part: Part) -> ApiResource {
    let (group, version, kind, plural) = part.resource();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// The object as it stands in the API server, without the bookkeeping of fields.
pub(super) fn whole(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(object).unwrap_or_default()
}

async fn call_kube<T>(work: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(CALL, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) => Err(Failure {
            code: Some(status.code),
            why: status.message.clone(),
        }),
        Ok(Err(error)) => Err(Failure {
            code: None,
            why: error.to_string(),
        }),
        Err(_) => Err(Failure {
            code: None,
            why: format!("no answer within {CALL:?}"),
        }),
    }
}

async fn call<T>(work: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    call_kube(work).await.map_err(|failure| failure.why)
}
