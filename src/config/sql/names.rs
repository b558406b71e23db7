//! Names: binds the identifiers of an expression to columns of its scope, and turns away what is not a scalar expression
//! over one row.

use super::functions::{Functions, Known};
use super::{Scope, SqlError};
use crate::config::diagnostic::{listed, nearest};
use datafusion_sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Value, visit_expressions_mut};
use std::ops::ControlFlow;

/// Rewrites every identifier to the one name its column has in the scope.
pub fn bind(expression: &mut Expr, scope: &Scope, functions: &Functions) -> Result<(), SqlError> {
    let flow = visit_expressions_mut(expression, |node| match bind_one(node, scope, functions) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn bind_one(node: &mut Expr, scope: &Scope, functions: &Functions) -> Result<(), SqlError> {
    match node {
        Expr::Identifier(ident) => {
            let quoted = ident.quote_style == Some('"');
            *node = column(&ident.value.clone(), quoted, scope)?;
        }
        Expr::CompoundIdentifier(parts) => {
            let name = parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".");
            *node = column(&name, false, scope)?;
        }
        Expr::Function(function) => {
            if function.over.is_some() {
                return Err(unsupported("a window function (`OVER`)", "windows are declared under `features`"));
            }
            check_function(&function.name, functions)?;
        }
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            return Err(unsupported("a subquery", "an expression sees one row; join streams under `samples.*.join`"));
        }
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
            return Err(unsupported(
                "a placeholder",
                "write the value itself, or `${NAME}` for an environment variable",
            ));
        }
        _ => {}
    }
    Ok(())
}

fn unsupported(what: &str, help: &str) -> SqlError {
    SqlError::Unsupported { what: what.into(), help: help.into() }
}

fn column(name: &str, quoted: bool, scope: &Scope) -> Result<Expr, SqlError> {
    if scope.names().any(|known| known == name) {
        return Ok(Expr::Identifier(Ident::with_quote('"', name)));
    }
    let qualified = format!(".{name}");
    let underscored = scope.names().find(|known| known.replace('.', "_") == name);
    let help = if let Some(known) = underscored {
        Some(format!("columns of a join are written with a dot here: `{known}`"))
    } else if let Some(near) = nearest(name, scope.names()) {
        Some(format!("did you mean `{near}`?"))
    } else if let Some(known) = scope.names().find(|known| known.ends_with(&qualified)) {
        Some(format!("did you mean `{known}`?"))
    } else if quoted {
        Some(format!("text is written in single quotes: '{name}'"))
    } else if scope.names().next().is_none() {
        None
    } else {
        Some(format!("known here: {}", listed(scope.names())))
    };
    Err(SqlError::UnknownColumn { name: name.into(), help })
}

fn check_function(name: &ObjectName, functions: &Functions) -> Result<(), SqlError> {
    let written = name.to_string();
    let plain = match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => ident.value.to_lowercase(),
        _ => written.to_lowercase(),
    };
    match functions.look_up(&plain) {
        Known::Scalar => Ok(()),
        Known::Volatile => Err(unsupported(
            &format!("`{written}`"),
            "an expression must give the same value whenever it is computed: use the event's own time and columns",
        )),
        Known::Aggregate => Err(unsupported(
            &format!("the aggregate `{written}`"),
            "aggregates are declared under `features`, or in a join with `take: {sum: column}`",
        )),
        Known::Unknown => {
            let help = nearest(&plain, functions.names()).map(|near| format!("did you mean `{near}`?"));
            Err(SqlError::UnknownFunction {
                name: written,
                help: help.or_else(|| Some("docs/CONFIG.md lists the functions".into())),
            })
        }
    }
}
