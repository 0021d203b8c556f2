//! What a handler sees of the tables: one transaction over rows, in memory.
//!
//! Refuses: a row that does not fit its table, and anything that is not a row of the projection's own
//! tables.

use std::sync::Arc;

use super::row::{Key, Row};
use super::workspace::Workspace;
use super::{Handled, HandlerError};

/// The rows of a projection while one event is handled.
#[derive(Debug)]
pub struct Rows<'a> {
    workspace: &'a mut Workspace,
}

impl<'a> Rows<'a> {
    pub(super) fn new(workspace: &'a mut Workspace) -> Self {
        Self { workspace }
    }

    /// The row of a key.
    ///
    /// # Errors
    /// To be passed on with `?`: the row may have to be read first, and the handler then runs again.
    pub fn get(
        &mut self,
        table: &'static str,
        key: impl Into<Key>,
    ) -> Result<Option<Row>, HandlerError> {
        let at = self.table(table)?;
        let key = self.key(at, key.into())?;
        let known = self.workspace.look_up(at, &key);
        let Some(values) = known.cloned().ok_or_else(HandlerError::missing)? else {
            return Ok(None);
        };
        let tables = Arc::clone(&self.workspace.tables);
        Ok(Some(Row::stored(tables, at, values)))
    }

    /// Sets a row, whether there is one of its key or not.
    ///
    /// # Errors
    /// When the row does not fit the table.
    pub fn put(&mut self, table: &'static str, row: Row) -> Handled {
        let at = self.table(table)?;
        let definition = self.workspace.tables.get(at);
        let definition = definition.ok_or_else(|| no_table(table))?;
        let key_at = definition.key_at();
        let values = definition.values(row)?;
        let key = values.get(key_at).cloned();
        let key = key.ok_or_else(|| no_table(table))?;
        self.workspace.check_key(&key)?;
        self.workspace.change(at, key, Some(values));
        Ok(())
    }

    /// Removes the row of a key, if there is one.
    ///
    /// # Errors
    /// When the projection has no such table.
    pub fn delete(&mut self, table: &'static str, key: impl Into<Key>) -> Handled {
        let at = self.table(table)?;
        let key = self.key(at, key.into())?;
        self.workspace.change(at, key, None);
        Ok(())
    }

    /// A key that rows of the table can have: no other is ever found or stored.
    fn key(&self, table: usize, key: Key) -> Result<Key, HandlerError> {
        let definition = self.workspace.tables.get(table);
        let column = definition.and_then(|table| table.columns.get(table.key_at()));
        match column {
            Some(column) if column.fits(&key) => Ok(key),
            _ => Err(HandlerError::refused(format!("{key:?} is not a key"))),
        }
    }

    fn table(&self, name: &str) -> Result<usize, HandlerError> {
        let tables = &self.workspace.tables;
        let at = tables.iter().position(|table| table.name == name);
        at.ok_or_else(|| no_table(name))
    }
}

fn no_table(name: &str) -> HandlerError {
    HandlerError::refused(format!("the projection has no table `{name}`"))
}
