//! The extension points of one profile: for each point the plugins that serve it, in configured order.

use std::sync::Arc;

use super::{
    Bind, EventHint, Filter, Permit, Plugin, PostBind, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort,
    Reserve, Score,
};

/// A plugin at an extension point. `id` is the plugin's place in the profile.
pub struct Slot<T: ?Sized> {
    pub id: u32,
    pub plugin: Arc<T>,
    /// Only `Score` uses it.
    pub weight: i64,
}

impl<T: ?Sized> Slot<T> {
    pub(crate) fn bit(&self) -> u64 {
        1 << self.id
    }
}

/// All points. A plugin puts itself where it serves while `current` names it.
#[derive(Default)]
pub struct ExtensionPoints {
    pub pre_enqueue: Vec<Slot<dyn PreEnqueue>>,
    pub queue_sort: Vec<Slot<dyn QueueSort>>,
    pub pre_filter: Vec<Slot<dyn PreFilter>>,
    pub filter: Vec<Slot<dyn Filter>>,
    pub post_filter: Vec<Slot<dyn PostFilter>>,
    pub pre_score: Vec<Slot<dyn PreScore>>,
    pub score: Vec<Slot<dyn Score>>,
    pub reserve: Vec<Slot<dyn Reserve>>,
    pub permit: Vec<Slot<dyn Permit>>,
    pub pre_bind: Vec<Slot<dyn PreBind>>,
    pub bind: Vec<Slot<dyn Bind>>,
    pub post_bind: Vec<Slot<dyn PostBind>>,
    /// Per plugin the events it waits for.
    pub hints: Vec<(&'static str, Vec<EventHint>)>,
    id: u32,
    weight: i64,
}

/// Declares `fn point(&mut self, plugin)` for each extension point, and what can be done at a point by its configured name.
macro_rules! serve {
    ($($method:ident: $point:ident, $name:literal => $contract:ident),* $(,)?) => {
        $(pub fn $method(&mut self, plugin: &Arc<impl $contract>) -> &mut Self {
            let plugin: Arc<dyn $contract> = plugin.clone();
            self.$point.push(Slot { id: self.id, plugin, weight: self.weight });
            self
        })*

        /// Takes a plugin, or all for `*`, off the point of this name.
        pub(crate) fn disable(&mut self, point: &str, plugin: &str) {
            match point {
                $($name => self.$point.retain(|slot| plugin != "*" && slot.plugin.name() != plugin),)*
                _ => {}
            }
        }

        /// Puts what serves the point of this name among `more` there; `false` when nothing of it does.
        pub(crate) fn enable(&mut self, point: &str, more: ExtensionPoints) -> bool {
            match point {
                $($name => {
                    let serves = !more.$point.is_empty();
                    for slot in more.$point {
                        // A weight given for the point wins over the plugin's.
                        self.$point.retain(|other| other.plugin.name() != slot.plugin.name());
                        self.$point.push(slot);
                    }
                    for (plugin, events) in more.hints {
                        if !self.hints.iter().any(|(known, _)| *known == plugin) {
                            self.hints.push((plugin, events));
                        }
                    }
                    serves
                })*
                _ => false,
            }
        }
    };
}

impl ExtensionPoints {
    serve! {
        at_pre_enqueue: pre_enqueue, "preEnqueue" => PreEnqueue,
        at_queue_sort: queue_sort, "queueSort" => QueueSort,
        at_pre_filter: pre_filter, "preFilter" => PreFilter,
        at_filter: filter, "filter" => Filter,
        at_post_filter: post_filter, "postFilter" => PostFilter,
        at_pre_score: pre_score, "preScore" => PreScore,
        at_score: score, "score" => Score,
        at_reserve: reserve, "reserve" => Reserve,
        at_permit: permit, "permit" => Permit,
        at_pre_bind: pre_bind, "preBind" => PreBind,
        at_bind: bind, "bind" => Bind,
        at_post_bind: post_bind, "postBind" => PostBind,
    }

    /// Opens the points for one plugin: its id, its weight and the events it waits for.
    pub(crate) fn begin(&mut self, id: u32, weight: i64) {
        assert!(id < 64, "a profile holds at most 64 plugins");
        self.id = id;
        self.weight = weight;
    }

    /// Registers the events a plugin waits for.
    pub fn listen(&mut self, plugin: &Arc<impl Plugin>) -> &mut Self {
        self.hints.push((plugin.name(), plugin.events()));
        self
    }
}
