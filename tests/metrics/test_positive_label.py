import pytest

from medclf.metrics.positive_label import positive_label


@pytest.mark.parametrize(
    ("finding", "plain"),
    [
        ("COVID", "non-COVID"),
        ("inflamed", "quiescent"),
        ("fracture", "aucune"),
        ("COVID", "NonCOVID"),
        ("covid", "noncovid"),
        ("tumor", "notumor"),
        ("yes", "no"),
        ("1", "0"),
        ("true", "false"),
        ("abnormal", "normal"),
        ("Parasitized", "Uninfected"),
        ("polyp", "no polyp"),
        ("Finding", "NoFinding"),
        ("sick", "notSick"),
        ("pneumonia", "NORMAL"),
        ("malignant", "benign"),
        ("melanoma", "nevus"),
        ("benign", "normal"),
        ("effusion", "others"),
        ("glaucoma", "rest"),
        ("cancer", "non-cancer"),
        ("fracture", "not fractured"),
        ("symptomatic", "asymptomatic"),
        ("nodule", "other"),
        ("nodule", "clear"),
        ("Nocardia", "healthy"),
        ("invasive", "noninvasive"),
        ("defect", "without_defect"),
        ("other", "healthy"),
        ("unstable", "stable"),
        ("asymmetric", "symmetric"),
        ("inadequate", "adequate"),
        ("unhealthy", "healthy"),
        ("metastasis", "tumor-free"),
        ("dementia", "nondemented"),
        ("ill", "well"),
        ("AD", "CN"),
        ("melanoma", "seborrheic keratosis"),
        ("1.0", "0.0"),
        ("1", "-1"),
        ("stage-2", "stage-1"),
        ("HER2+", "HER2-"),
        ("0_tumor", "1_normal"),
        ("Y", "N"),
        ("M", "B"),
        ("dead", "alive"),
        ("high_risk", "low_risk"),
        ("severe", "mild"),
        ("mild", "healthy"),
        ("Befund", "kein Befund"),
        ("con_tumor", "sin_tumor"),
        ("mutant", "wildtype"),
        ("RG", "NRG"),
        ("microcephalic", "normocephalic"),
        ("cancer", "inconclusive"),
        ("nok", "ok"),
        ("grade III", "grade II"),
        ("Type_IV", "Type_I"),
        ("irregular", "regular"),
        ("unclear", "clear"),
        ("present", "absence"),
        ("fail", "pass"),
        ("deceased", "living"),
        ("positivo", "negativo"),
        ("malin", "bénin"),
        ("bösartig", "gutartig"),
        ("阳性", "阴性"),
        ("патология", "норма"),
        ("HGD", "LGD"),
    ],
)
def test_the_finding_is_the_positive_whatever_is_more_frequent(finding, plain):
    for vocab in ([finding, plain], [plain, finding]):
        for counts in ({finding: 90, plain: 10}, {finding: 10, plain: 90}):
            found = positive_label(vocab, counts)
            assert (found.label, found.by) == (finding, "name"), vocab


@pytest.mark.parametrize(
    "vocab", [["adenoma", "hyperplastic"], ["chest", "hand"], ["normal tissue", "healthy tissue"], ["F", "M"]]
)
def test_where_no_name_tells_it_is_the_rarer(vocab):
    first, second = vocab
    assert positive_label(vocab, {first: 9, second: 8}) == (second, "rarer")
    assert positive_label(vocab, {first: 8, second: 9}) == (first, "rarer")
    assert positive_label(vocab) == (second, "order")
