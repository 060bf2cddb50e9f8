//! Protection by finalizer: an object that is going keeps its finalizer until nothing uses it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What to do about one finalizer of one object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Going: whether anything uses the object decides.
    Release,
    /// Made before admission put finalizers on.
    Add,
}

pub(crate) fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

pub(crate) fn step(meta: &ObjectMeta, finalizer: &str) -> Step {
    match (meta.deletion_timestamp.is_some(), has(meta, finalizer)) {
        (true, true) => Step::Release,
        (false, false) => Step::Add,
        _ => Step::Nothing,
    }
}

pub(crate) fn add(meta: &mut ObjectMeta, finalizer: &str) {
    meta.finalizers.get_or_insert_default().push(finalizer.to_owned());
}

pub(crate) fn remove(meta: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut meta.finalizers {
        finalizers.retain(|one| one != finalizer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn living_objects_get_the_finalizer_and_dying_ones_may_lose_it() {
        let mut meta = ObjectMeta::default();
        assert_eq!(step(&meta, "a/b"), Step::Add);
        add(&mut meta, "a/b");
        assert_eq!(step(&meta, "a/b"), Step::Nothing);
        meta.deletion_timestamp = Some(clock::now());
        assert_eq!(step(&meta, "a/b"), Step::Release);
        remove(&mut meta, "a/b");
        assert_eq!(step(&meta, "a/b"), Step::Nothing);
    }
}
