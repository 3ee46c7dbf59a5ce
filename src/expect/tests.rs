use serde_json::json;

use super::*;

fn shown(expected: Value, value: Value) -> Vec<String> {
    let expected = Expectation::parse(&expected).unwrap();
    let found = expected.differences(&value);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_value_is_expected_exactly() {
    let value = json!({ "a": [1, { "b": "x" }] });
    assert!(shown(value.clone(), value).is_empty());
    assert_eq!(
        shown(
            json!({ "a": [1, { "b": "x" }], "c": 1 }),
            json!({ "a": [2, { "b": "y", "z": 0 }, 3], "d": null })
        ),
        [
            "a[0]\n  - 1\n  + 2",
            "a[1].b\n  - \"x\"\n  + \"y\"",
            "a[1].z\n  + 0",
            "a[2]\n  + 3",
            "c\n  - 1",
            "d\n  + null",
        ]
    );
}

#[test]
fn a_subset_reaches_down_and_an_exact_value_ends_it() {
    let subset = json!({ "$subset": { "a": { "b": 1 }, "list": [2, 4] } });
    assert!(
        shown(
            subset.clone(),
            json!({ "a": { "b": 1, "more": 1 }, "list": [1, 2, 3, 4], "more": 1 })
        )
        .is_empty()
    );
    assert_eq!(
        shown(subset, json!({ "a": {}, "list": [4, 2] })),
        ["a.b\n  - 1", "list[1]\n  - 4"]
    );
    let ended = json!({ "$subset": { "a": { "$exact": { "$any": "number" } } } });
    assert!(shown(ended.clone(), json!({ "a": { "$any": "number" }, "b": 1 })).is_empty());
    assert_eq!(shown(ended, json!({ "a": 1 })).len(), 1);
}

#[test]
fn patterns_are_of_the_whole_text_and_types_are_types() {
    let pattern = json!({ "$pattern": "run [0-9]+|x" });
    assert!(shown(pattern.clone(), json!("run 12")).is_empty());
    for bad in [json!("a run 12"), json!("run 12x"), json!(12)] {
        assert_eq!(shown(pattern.clone(), bad).len(), 1);
    }
    assert!(shown(json!({ "$any": "number" }), json!(1.5)).is_empty());
    assert!(shown(json!({ "$any": "any" }), json!(null)).is_empty());
    assert_eq!(
        shown(json!({ "$any": "string" }), json!(1)),
        [".\n  - {\"$any\":\"string\"}\n  + 1"]
    );
}

#[test]
fn numbers_are_compared_by_value_without_losing_digits() {
    assert!(shown(json!(1), json!(1.0)).is_empty());
    assert_eq!(
        shown(
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992_u64)
        )
        .len(),
        1
    );
}

#[test]
fn a_matcher_that_makes_no_sense_is_refused_with_its_place() {
    for (bad, part) in [
        (json!({ "a": { "$subset": 1 } }), "at `a`: `$subset` takes"),
        (json!({ "a": [{ "$pattern": "(" }] }), "at `a[0]`"),
        (json!({ "$any": "int" }), "one of any, null, boolean"),
        (json!({ "$some": 1 }), "`$some` is no matcher"),
    ] {
        let refused = Expectation::parse(&bad).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
    }
    // Two keys are no matcher, whatever they are called.
    assert!(Expectation::parse(&json!({ "$a": 1, "$b": 2 })).is_ok());
}

#[test]
fn an_update_keeps_what_still_holds() {
    let written = json!({
        "id": { "$pattern": "[a-z]+" },
        "at": { "$any": "number" },
        "n": 1,
        "gone": true,
    });
    let now = json!({ "id": "abc", "at": "never", "n": 2, "new": { "$x": 1 } });
    let new = updated(&written, &now);
    assert_eq!(
        new,
        json!({
            "id": { "$pattern": "[a-z]+" },
            "at": "never",
            "n": 2,
            "new": { "$exact": { "$x": 1 } },
        })
    );
    assert!(Expectation::parse(&new).unwrap().holds(&now));
}
