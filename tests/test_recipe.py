"""training/recipe.py: options and recipe files, with their names before version 1.0."""

import json
from pathlib import Path

import pytest

from training.__main__ import make_parser
from training.recipe import OLD_NAMES, Config, ConfigError, make_config
from training.training_commands import parse_config


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"lr": "fast"}', "lr"), ('{"speed": 1}', "speed"), ("[1]", "not a recipe"), ("{", "not a recipe")],
)
def test_invalid_recipe_names_the_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        make_config(str(tmp_path / "recipe.json"))
    with pytest.raises(ConfigError, match="--recipe fastest: expected default, original or a recipe file"):
        make_config("fastest")


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("lr", -1), ("seed", 10**23), ("batch_size", 0)])
def test_option_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} {value}; expected"):
        make_config("default", **{field: value})


def test_old_option_names_set_the_new_fields_and_are_hidden() -> None:
    parser, values = make_parser(), {"batch": 64, "average": 0.9, "rounds": 3, "outliers": 0.2, "teacher": 5}
    values |= {"distillation": 0.5, "softness": 2.0}
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    config = parse_config(parser.parse_args(["train", *options, "--no-normalise"]))
    assert config == make_config(
        "default", batch_norm=False, **{OLD_NAMES[name]: value for name, value in values.items()}
    )
    assert {"normalise", *values} == OLD_NAMES.keys()
    help_text = parser._actions[-1].choices["train"].format_help()  # type: ignore[index]
    assert not [name for name in OLD_NAMES if f"--{name} " in help_text or f"--{name}," in help_text]


def test_recipe_file_with_old_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": "tuned", "batch": 100, "softness": 2.0, "normalise": False}))
    expected = Config("tuned", batch_size=100, distillation_temperature=2.0, batch_norm=False)
    assert make_config(str(path)) == expected


def test_drift_baseline_has_its_old_name_too() -> None:
    old, new = (make_parser().parse_args([name, "--part", "test"]) for name in ("reference", "drift-baseline"))
    assert old == new
