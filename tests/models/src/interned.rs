//! Values that are named by a number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of a value of a table.
pub type Id = u32;

/// A table in which equal values have one number, and what was computed of them.
#[derive(Debug)]
pub struct Interned<V, I, O> {
    tables: Mutex<Tables<V, I, O>>,
}

#[derive(Debug)]
struct Tables<V, I, O> {
    values: Vec<Arc<V>>,
    ids: HashMap<Arc<V>, Id>,
    steps: HashMap<(Id, I), Arc<O>>,
}

impl<V: Eq + Hash, I: Eq + Hash, O> Default for Interned<V, I, O> {
    fn default() -> Interned<V, I, O> {
        let (values, ids, steps) = (Vec::new(), HashMap::new(), HashMap::new());
        Interned { tables: Mutex::new(Tables { values, ids, steps }) }
    }
}

impl<V: Eq + Hash, I: Eq + Hash, O> Interned<V, I, O> {
    fn tables(&self) -> MutexGuard<'_, Tables<V, I, O>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a value.
    pub fn id(&self, value: V) -> Id {
        let mut tables = self.tables();
        if let Some(id) = tables.ids.get(&value) {
            return *id;
        }
        let (id, value) = (tables.values.len() as Id, Arc::new(value));
        tables.values.push(value.clone());
        tables.ids.insert(value, id);
        id
    }

    /// The value with this number.
    ///
    /// # Panics
    /// There is none.
    pub fn value(&self, id: Id) -> Arc<V> {
        self.tables().values[id as usize].clone()
    }

    /// What an input makes of a value: computed the first time.
    pub fn step(&self, id: Id, input: I, compute: impl FnOnce(&V, &I) -> O) -> Arc<O> {
        let key = (id, input);
        if let Some(known) = self.tables().steps.get(&key) {
            return known.clone();
        }
        let output = Arc::new(compute(&self.value(id), &key.1));
        self.tables().steps.entry(key).or_insert(output).clone()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.tables().values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
