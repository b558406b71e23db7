//! Sql: compiles SQL scalar expressions of pipeline files into typed expressions.
//!
//!   text ── parse ──> AST ── names bound to columns ──> plan ── types coerced ──> compiled
//!
//! Names are bound here before the planner sees them, so that a misspelt one gets a suggestion and `click.at` is a column
//! like any other. Identifiers are taken as written.
//! Holds: what compiles is deterministic; results have one of the column types, or are lists of them.
//! Does not: know what the columns are.

mod compiled;
mod error;
mod functions;
mod names;

pub use error::SqlError;

use crate::event::Expression;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use compiled::Compiled;
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::Expr;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::CastExpr;
use datafusion_sql::parser::DFParser;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use functions::Functions;
use std::sync::Arc;

/// The columns an expression may name, in the layout of the batch it will be computed over.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    columns: Vec<FieldRef>,
}

impl Scope {
    /// Adds the next column; a name with a dot is written `join.column` in expressions.
    pub fn push(&mut self, name: impl Into<String>, data_type: DataType, nullable: bool) {
        self.columns.push(Arc::new(Field::new(name.into(), data_type, nullable)));
    }

    pub fn of(schema: &arrow::datatypes::Schema) -> Self {
        Scope { columns: schema.fields().iter().cloned().collect() }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.columns.iter().map(|field| field.name().as_str())
    }
}

/// Compiles an expression over `scope`.
pub fn compile(sql: &str, scope: &Scope) -> Result<Expression, SqlError> {
    let syntax = |error: DataFusionError| SqlError::Syntax(error::first_line(&error));
    let mut ast = DFParser::parse_sql_into_expr_with_dialect(sql, &GenericDialect {}).map_err(syntax)?;
    if ast.alias.is_some() {
        return Err(SqlError::Unsupported { what: "an alias (`AS …`)".into(), help: "the key is the name".into() });
    }
    let functions = Functions::get();
    names::bind(&mut ast.expr, scope, functions)?;
    let schema =
        DFSchema::from_unqualified_fields(scope.columns.iter().cloned().collect::<Fields>(), Default::default())
            .map_err(SqlError::plan)?;
    let options = ParserOptions::new().with_enable_ident_normalization(false).with_map_string_types_to_utf8view(false);
    let logical = SqlToRel::new_with_options(functions, options)
        .sql_to_expr(ast.expr, &schema, &mut PlannerContext::new())
        .map_err(SqlError::plan)?;
    let schema = Arc::new(schema);
    let logical = typed(logical, &schema)?;
    let physical =
        datafusion_physical_expr::create_physical_expr(&logical, &schema, &ExecutionProps::new(), &Default::default())
            .map_err(SqlError::plan)?;
    let arrow = schema.as_arrow();
    let found = physical.data_type(arrow).map_err(SqlError::plan)?;
    let nullable = physical.nullable(arrow).map_err(SqlError::plan)?;
    let data_type = plain(&found).ok_or_else(|| SqlError::result_type(&found))?;
    let physical: Arc<dyn PhysicalExpr> =
        if data_type == found { physical } else { Arc::new(CastExpr::new(physical, data_type.clone(), None)) };
    let mut columns: Vec<usize> =
        datafusion_physical_expr::utils::collect_columns(&physical).into_iter().map(|column| column.index()).collect();
    columns.sort_unstable();
    Ok(Expression {
        sql: sql.to_string(),
        data_type: data_type.clone(),
        nullable,
        columns,
        evaluate: Arc::new(Compiled { sql: sql.to_string(), physical, data_type }),
    })
}

/// Compiles an expression that must be true or false.
pub fn predicate(sql: &str, scope: &Scope) -> Result<Expression, SqlError> {
    let expression = compile(sql, scope)?;
    match expression.data_type {
        DataType::Boolean => Ok(expression),
        other => Err(SqlError::Type { found: type_name(&other), expected: "a condition that is true or false".into() }),
    }
}

fn typed(logical: Expr, schema: &Arc<DFSchema>) -> Result<Expr, SqlError> {
    let context = SimplifyContext::builder().with_schema(schema.clone()).build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(logical, schema).map_err(SqlError::plan)?;
    simplifier.simplify(coerced).map_err(SqlError::plan)
}

/// The column type that stands for a type of the SQL engine.
fn plain(found: &DataType) -> Option<DataType> {
    Some(match found {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Boolean => DataType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float32,
        DataType::Float64 | DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => {
            DataType::Float64
        }
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        DataType::List(item) => crate::event::list_of(plain(item.data_type())?),
        _ => return None,
    })
}

/// The functions that expressions may call.
pub fn function_names() -> impl Iterator<Item = &'static str> + Clone {
    Functions::get().names()
}

/// A type as pipeline files name it.
pub fn type_name(data_type: &DataType) -> String {
    if let Some((name, _)) = crate::event::ColumnType::NAMES.iter().find(|(_, known)| &known.arrow() == data_type) {
        return name.to_string();
    }
    match data_type {
        DataType::List(item) => format!("list of {}", type_name(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests;
