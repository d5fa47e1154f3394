//! A XenStore in this process, small and quick.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use vchan::host::{NodeAccess, Permissions, Store, Time, Watch};
use vchan::{DomId, StoreError, StoreErrorKind, StorePath};

use crate::machine::lock;

/// What a node holds, or how reading it fails.
pub type Value = Result<Vec<u8>, StoreErrorKind>;

/// The store: nodes by the path by which they are asked for.
#[derive(Clone, Default)]
pub struct Nodes {
    nodes: Arc<Mutex<BTreeMap<String, Value>>>,
    /// What the nodes become, one step each time that a watch is waited for.
    steps: Arc<Mutex<Vec<Step>>>,
}

/// Something that happens to the nodes while this side waits for a change.
pub type Step = Box<dyn FnOnce(&Nodes) + Send>;

impl Nodes {
    /// Sets a node.
    pub fn set(&self, path: &str, value: Value) {
        lock(&self.nodes).insert(path.to_owned(), value);
    }

    /// Sets what happens next, the last first.
    pub fn set_steps(&self, steps: Vec<Step>) {
        *lock(&self.steps) = steps;
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        lock(&self.nodes).len()
    }
}

fn error(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, "do it")
}

impl Store for Nodes {
    fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        let nodes = lock(&self.nodes);
        let value = nodes.get(path.as_str());
        (value.cloned().unwrap_or(Err(StoreErrorKind::NotFound))).map_err(error)
    }

    fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.set(path.as_str(), Ok(value.to_vec()));
        Ok(())
    }

    fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        lock(&self.nodes).remove(path.as_str());
        Ok(())
    }

    fn directory(&self, _: &StorePath) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn permissions(&self, _: &StorePath) -> Result<Permissions, StoreError> {
        Ok(Permissions {
            owner: DomId::DOM0,
            default: NodeAccess::None,
            domains: Vec::new(),
        })
    }

    fn set_permissions(&self, _: &StorePath, _: &Permissions) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_domain_introduced(&self, _: DomId) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn watch(&self, _: &StorePath) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.clone()))
    }
}

impl Watch for Nodes {
    fn take(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// The next step, or the deadline once there is none.
    fn wait(&self, deadline: Option<Time>) -> Result<bool, StoreError> {
        let step = lock(&self.steps).pop();
        assert!(step.is_some() || deadline.is_some(), "a wait without end");
        let fired = step.is_some();
        if let Some(step) = step {
            step(self);
        }
        Ok(fired)
    }

    /// Nobody but the waiter takes a step.
    fn register(&self, _: &Waker) {}
}
