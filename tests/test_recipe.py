"""training/recipe.py: options and recipe files."""

from pathlib import Path

import pytest

from training.recipe import ConfigError, make_config


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"lr": "fast"}', "lr"), ('{"speed": 1}', "speed"), ("[1]", "not a recipe"), ("{", "not a recipe")],
)
def test_invalid_recipe_names_the_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        make_config(str(tmp_path / "recipe.json"))
    with pytest.raises(ConfigError, match="--recipe fastest: expected default, original, large or a recipe file"):
        make_config("fastest")


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("lr", -1), ("seed", 10**23), ("batch_size", 0)])
def test_option_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} {value}; expected"):
        make_config("default", **{field: value})
