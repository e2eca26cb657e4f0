import pandas as pd

from medclf.run.tables import describe_table


def test_patients_in_several_partitions_are_counted():
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(6)],
            "label": ["a", "b"] * 3,
            "patient": ["x", "x", "y", "y", "z", None],
            "partition": ["train", "valid", "train", "train", "test", "test"],
            "problem": "",
            "width": 8,
            "height": 8,
        }
    )
    said = list(describe_table(table))
    assert any("3 patients; 1 images without a patient" in line for line in said)
    assert any(line.startswith("  1 patients in more than one partition") for line in said)
    assert not any("more than one" in line for line in describe_table(table[table["partition"] == "train"]))


def test_of_many_labels_the_first_are_counted_and_the_rest_are_numbered():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(50)], "label": [f"c{i:02}" for i in range(50)]})
    said = list(describe_table(table.assign(problem="", partition=None, patient=None, width=8, height=8)))
    assert any(line.endswith("c39 1 and 10 labels more") for line in said)


def test_labels_of_one_partition_alone_are_told():
    parts = ["train", "train", "test"]
    table = pd.DataFrame({"path": ["1", "2", "3"], "label": ["a", "b", "c"], "partition": parts, "problem": ""})
    said = list(describe_table(table.assign(patient=None, width=8, height=8)))
    assert "  label 'c' is only in test, never in train: it cannot be learned with these partitions" in said
