//! What plugins remember between the extension points of one cycle.

use std::any::Any;

/// A value a plugin keeps in the cycle state. Any cloneable value is one.
pub trait StateData: Any + Send + Sync {
    fn clone_box(&self) -> Box<dyn StateData>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Send + Sync + Clone> StateData for T {
    fn clone_box(&self) -> Box<dyn StateData> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// State of one cycle, one value per type. Cloned when preemption tries out "what if".
#[derive(Default)]
pub struct CycleState {
    values: Vec<Box<dyn StateData>>,
    /// Plugin ids (bits) whose `Filter` is skipped for this pod.
    pub(crate) skip_filter: u64,
    /// Plugin ids (bits) whose `Score` is skipped for this pod.
    pub(crate) skip_score: u64,
}

impl CycleState {
    pub fn get<T: StateData>(&self) -> Option<&T> {
        self.values.iter().find_map(|value| (**value).as_any().downcast_ref())
    }

    pub fn get_mut<T: StateData>(&mut self) -> Option<&mut T> {
        self.values.iter_mut().find_map(|value| (**value).as_any_mut().downcast_mut())
    }

    pub fn set<T: StateData>(&mut self, value: T) {
        match self.get_mut::<T>() {
            Some(old) => *old = value,
            None => self.values.push(Box::new(value)),
        }
    }
}

impl Clone for CycleState {
    fn clone(&self) -> CycleState {
        CycleState {
            values: self.values.iter().map(|value| (**value).clone_box()).collect(),
            skip_filter: self.skip_filter,
            skip_score: self.skip_score,
        }
    }
}
