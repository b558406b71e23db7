use super::*;
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, ListArray, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, Schema};
use datafusion_expr::Volatility;

fn instant() -> DataType {
    crate::event::ColumnType::Timestamp.arrow()
}

fn schema() -> Schema {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Schema::new(vec![
        field("device", DataType::Utf8),
        field("Price", DataType::Float64),
        field("position", DataType::Int32),
        field("shown_at", instant()),
        field("click.at", instant()),
        field("items", crate::event::list_of(DataType::Utf8)),
    ])
}

fn batch() -> RecordBatch {
    let times =
        |values: Vec<Option<i64>>| Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let mut items = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    items.append_value([Some("a"), Some("b")]);
    items.append_null();
    let items: ListArray = items.finish();
    RecordBatch::try_new(
        Arc::new(schema()),
        vec![
            Arc::new(StringArray::from(vec![Some("iOS"), None])),
            Arc::new(Float64Array::from(vec![2.5, -1.0])),
            Arc::new(Int32Array::from(vec![0, 7])),
            times(vec![Some(1_000), Some(7_200_000)]),
            times(vec![Some(3_500), None]),
            Arc::new(items),
        ],
    )
    .unwrap()
}

fn run(sql: &str) -> ArrayRef {
    let expression = compile(sql, &Scope::of(&schema())).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let array = expression.evaluate(&batch()).unwrap();
    assert_eq!((array.data_type(), array.len()), (&expression.data_type, 2), "{sql}");
    array
}

#[test]
fn results_have_column_types_only() {
    for (sql, expected) in [
        ("upper(device)", DataType::Utf8),
        ("device || '!'", DataType::Utf8),
        ("concat(device, '-', position)", DataType::Utf8),
        ("substr(device, 2, 1)", DataType::Utf8),
        ("substring(device FROM 2)", DataType::Utf8),
        ("trim(device)", DataType::Utf8),
        ("split_part(device, 'O', 1)", DataType::Utf8),
        ("CASE WHEN Price > 0 THEN 'up' ELSE 'down' END", DataType::Utf8),
        ("cast(position AS varchar)", DataType::Utf8),
        ("character_length(device)", DataType::Int32),
        ("position + 1", DataType::Int64),
        ("cast(position AS smallint)", DataType::Int32),
        ("cast(position AS bigint)", DataType::Int64),
        ("Price * 2", DataType::Float64),
        ("cast(Price AS decimal(10, 2))", DataType::Float64),
        ("ln(Price)", DataType::Float64),
        ("round(Price)", DataType::Float64),
        ("EXTRACT(hour FROM shown_at)", DataType::Int32),
        ("date_trunc('hour', shown_at)", instant()),
        ("shown_at + INTERVAL '1' HOUR", instant()),
        ("coalesce(\"click.at\", shown_at)", instant()),
        ("millis_between(shown_at, click.at)", DataType::Int64),
        ("device LIKE 'i%'", DataType::Boolean),
        ("device IN ('iOS', 'web')", DataType::Boolean),
        ("shown_at > '1970-01-01T00:00:02Z'", DataType::Boolean),
        ("regexp_like(device, '^i')", DataType::Boolean),
        ("items", crate::event::list_of(DataType::Utf8)),
        ("array_length(items)", DataType::Int64),
        ("items[1]", DataType::Utf8),
        ("array_element(items, -1)", DataType::Utf8),
        ("array_slice(items, 1, 1)", crate::event::list_of(DataType::Utf8)),
        ("array_distinct(items)", crate::event::list_of(DataType::Utf8)),
        ("array_has(items, device)", DataType::Boolean),
        ("array_position(items, 'b')", DataType::Int64),
        ("array_max(items)", DataType::Utf8),
        ("array_to_string(items, '|')", DataType::Utf8),
        ("true", DataType::Boolean),
        ("'x'", DataType::Utf8),
    ] {
        assert_eq!(run(sql).data_type(), &expected, "{sql}");
    }
}

#[test]
fn names_are_taken_as_written_and_function_names_in_any_case() {
    assert_eq!(run("UPPER(device)").as_string::<i32>().value(0), "IOS");
    let error = compile("price > 1", &Scope::of(&schema())).unwrap_err();
    assert_eq!(error.help().unwrap(), "did you mean `Price`?");
}

#[test]
fn columns_of_a_join_are_qualified_and_null_when_there_is_no_label() {
    let delay = run("millis_between(shown_at, click.at)");
    let delay = delay.as_primitive::<Int64Type>();
    assert_eq!((delay.value(0), delay.is_null(1)), (2_500, true));
    let hour = run("date_part('hour', shown_at)");
    assert_eq!(hour.as_primitive::<Int32Type>().values(), &[0, 2]);
}

#[test]
fn lists_can_be_measured_searched_and_taken_apart() {
    let length = run("array_length(items)");
    assert_eq!(length.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(2), None]);
    for (sql, expected) in [("items[1]", "a"), ("items[2]", "b"), ("array_to_string(items, '+')", "a+b")] {
        let found = run(sql);
        assert_eq!(found.as_string::<i32>().iter().collect::<Vec<_>>(), [Some(expected), None], "{sql}");
    }
    assert!(run("items[3]").is_null(0), "behind its end is null");
    let has = predicate("array_has(items, 'b')", &Scope::of(&schema())).unwrap().matches(&batch()).unwrap();
    assert_eq!((has.value(0), has.value(1), has.null_count()), (true, false, 0));
}

#[test]
fn null_in_a_condition_counts_as_false() {
    let condition = predicate("device = 'iOS'", &Scope::of(&schema())).unwrap();
    let matches = condition.matches(&batch()).unwrap();
    assert_eq!((matches.value(0), matches.value(1), matches.null_count()), (true, false, 0));
    assert!(matches!(predicate("position", &Scope::of(&schema())), Err(SqlError::Type { .. })));
}

#[test]
fn an_expression_knows_the_columns_it_reads() {
    let expression = compile("position + Price + position", &Scope::of(&schema())).unwrap();
    assert_eq!(expression.columns, vec![1, 2]);
}

#[test]
fn what_is_no_scalar_expression_over_one_row_is_refused() {
    for sql in [
        "now()",
        "NOW()",
        "current_timestamp",
        "current_date",
        "random()",
        "uuid()",
        "sum(position)",
        "COUNT(*)",
        "max(Price)",
        "(SELECT 1)",
        "EXISTS (SELECT 1)",
        "position IN (SELECT 1)",
        "row_number() OVER ()",
        "$1",
        "position AS p",
        "position; DROP TABLE x",
        "position, Price",
        "*",
        "NULL",
        "INTERVAL '1' DAY",
        "cast(shown_at AS date)",
        "arrow_typeof(device)",
        "@x",
        "[1, 2]",
        "",
    ] {
        let outcome = compile(sql, &Scope::of(&schema()));
        assert!(outcome.is_err(), "{sql} gave {:?}", outcome.map(|expression| expression.data_type));
        assert!(!outcome.unwrap_err().to_string().is_empty());
    }
}

#[test]
fn every_listed_function_exists_and_is_deterministic() {
    for name in functions::ALLOWED.iter().copied() {
        let function =
            Functions::get().get_scalar(name).unwrap_or_else(|| panic!("{name} is listed, and does not exist"));
        assert_eq!(function.signature().volatility, Volatility::Immutable, "{name}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let deep = format!("{}position{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(compile(&deep, &Scope::of(&schema())), Err(SqlError::Syntax(_))));
}
