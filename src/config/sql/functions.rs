//! Functions: the scalar functions that expressions may call: deterministic ones of the SQL engine, and `millis_between`.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::arity::binary;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMillisecondType};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{
    AggregateUDF, ColumnarValue, HigherOrderUDF, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableSource,
    Volatility, WindowUDF,
};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Functions of the engine that may be called; what is not listed is unknown to users.
pub const ALLOWED: &[&str] = &[
    // choosing
    "coalesce",
    "nullif",
    "nvl",
    "nvl2",
    "greatest",
    "least",
    // text
    "ascii",
    "bit_length",
    "btrim",
    "trim",
    "chr",
    "concat",
    "concat_ws",
    "contains",
    "ends_with",
    "initcap",
    "left",
    "length",
    "char_length",
    "character_length",
    "levenshtein",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "overlay",
    "position",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "instr",
    "substr",
    "substring",
    "to_hex",
    "translate",
    "upper",
    "regexp_like",
    "regexp_replace",
    "regexp_count",
    // numbers
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "isnan",
    "iszero",
    "lcm",
    "ln",
    "log",
    "log10",
    "log2",
    "nanvl",
    "pi",
    "pow",
    "power",
    "radians",
    "round",
    "signum",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
    // time
    "date_bin",
    "date_part",
    "datepart",
    "date_trunc",
    "datetrunc",
    "from_unixtime",
    "to_char",
    "date_format",
    "to_unixtime",
    "to_timestamp",
    "to_timestamp_millis",
    // lists
    "array_avg",
    "array_distance",
    "array_distinct",
    "array_element",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_length",
    "array_max",
    "array_min",
    "array_position",
    "array_slice",
    "array_sum",
    "array_to_string",
    "cosine_distance",
    "inner_product",
    // ours
    "millis_between",
];

const VOLATILE: &[&str] = &[
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "today",
    "localtime",
    "localtimestamp",
    "random",
    "rand",
    "uuid",
    "gen_random_uuid",
    "version",
    "sysdate",
    "getdate",
];

const AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "avg",
    "mean",
    "median",
    "first_value",
    "last_value",
    "array_agg",
    "stddev",
    "var",
    "variance",
    "approx_distinct",
    "string_agg",
    "bool_and",
    "bool_or",
    "row_number",
];

pub enum Known {
    Scalar,
    Volatile,
    Aggregate,
    Unknown,
}

pub struct Functions {
    scalar: BTreeMap<String, Arc<ScalarUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Functions {
    pub fn get() -> &'static Functions {
        static FUNCTIONS: LazyLock<Functions> = LazyLock::new(Functions::new);
        &FUNCTIONS
    }

    fn new() -> Self {
        let mut scalar = BTreeMap::new();
        let of_lists = datafusion_functions_nested::all_default_nested_functions();
        for function in datafusion_functions::all_default_functions().into_iter().chain(of_lists) {
            let names = std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
            for name in names.filter(|name| ALLOWED.contains(name)) {
                scalar.insert(name.to_string(), function.clone());
            }
        }
        scalar.insert("millis_between".into(), Arc::new(ScalarUDF::from(MillisBetween::new())));
        Functions {
            scalar,
            planners: vec![
                Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                // `items[1]`
                Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
                Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            ],
            options: ConfigOptions::default(),
        }
    }

    pub fn get_scalar(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalar.get(name)
    }

    pub fn look_up(&self, name: &str) -> Known {
        match name {
            _ if self.scalar.contains_key(name) => Known::Scalar,
            _ if VOLATILE.contains(&name) => Known::Volatile,
            "min" | "max" => Known::Aggregate,
            _ if AGGREGATES.contains(&name) => Known::Aggregate,
            _ => Known::Unknown,
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.scalar.keys().map(String::as_str)
    }
}

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("there is no table {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.get_scalar(&name.to_lowercase()).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// `millis_between(a, b)`: b - a in milliseconds.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MillisBetween {
    signature: Signature,
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

impl MillisBetween {
    fn new() -> Self {
        MillisBetween { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for MillisBetween {
    fn name(&self) -> &str {
        "millis_between"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_instant = |ty: &DataType| matches!(ty, DataType::Timestamp(..) | DataType::Null);
        if types.len() != 2 || !types.iter().all(is_instant) {
            let found = types.iter().map(super::type_name).collect::<Vec<_>>().join(", ");
            return plan_err!("millis_between takes two timestamps, found ({found})");
        }
        Ok(vec![instant(), instant()])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [from, to] = arrays.as_slice() else {
            return Err(DataFusionError::Execution("millis_between takes two timestamps".into()));
        };
        let from = from.as_primitive::<TimestampMillisecondType>();
        let to = to.as_primitive::<TimestampMillisecondType>();
        let millis = binary::<_, _, _, Int64Type>(from, to, |from, to| to.wrapping_sub(from))?;
        Ok(ColumnarValue::Array(Arc::new(millis) as ArrayRef))
    }
}
