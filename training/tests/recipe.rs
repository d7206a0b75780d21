//! Recipes as users write them: layers, origins, and the text of every refusal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use training::recipe::{Origin, Recipe, Resolved, load};

/// A folder of recipes.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, name: &str, sets: &[&str]) -> training::Result<Resolved> {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        load(self.path(name), &sets)
    }

    /// The refusal's text and hint, with this folder's path left out.
    fn refusal(&self, name: &str, sets: &[&str]) -> (String, String, bool) {
        let error = self.load(name, sets).unwrap_err();
        let strip = |text: String| text.replace(&format!("{}/", self.0.path().display()), "");
        let about_arguments = error.is_about_arguments();
        (strip(error.to_string()), strip(error.hint().unwrap_or_default()), about_arguments)
    }
}

const SMALL: &str = "\
[encoder]
source = \"mini\"
[training]
max_steps = 10
";

fn refused(text: &str) -> String {
    Folder::new(&[("r.toml", text)]).refusal("r.toml", &[]).0
}

fn refused_set(set: &str) -> String {
    let (message, _, about_arguments) = Folder::new(&[("r.toml", SMALL)]).refusal("r.toml", &[set]);
    assert!(about_arguments, "{message}");
    message
}

fn file(path: PathBuf, line: usize) -> Origin {
    Origin::File { path, line }
}

#[test]
fn the_last_layer_wins_and_is_the_origin() {
    let folder = Folder::new(&[
        ("far/root.toml", "name = \"root\"\n[decoder]\nhidden = 64\nlayers = 1\nheads = 2\n"),
        ("middle.toml", "extends = \"far/root.toml\"\n[decoder]\nlayers = 2\nffn = 100\n"),
        (
            "top.toml",
            "extends = \"middle.toml\"\n[encoder]\nsource = \"mini\"\n\n[decoder]\nffn = 200\n[training]\nmax_steps = 5\n",
        ),
    ]);
    let resolved = folder.load("top.toml", &["decoder.heads=4", "decoder.heads=8"]).unwrap();
    let decoder = &resolved.recipe.decoder;
    assert_eq!((decoder.hidden, decoder.layers, decoder.ffn, decoder.heads), (64, 2, 200, 8));
    let origin = |key: &str| resolved.origins[key].clone();
    assert_eq!(origin("decoder.hidden"), file(folder.0.path().join("far/root.toml"), 3));
    assert_eq!(origin("decoder.layers"), file(folder.path("middle.toml"), 3));
    assert_eq!(origin("decoder.ffn"), file(folder.path("top.toml"), 6));
    assert_eq!(origin("decoder.heads"), Origin::Set("decoder.heads=8".into()));
    assert_eq!(origin("decoder.prefix_tokens"), Origin::Default);
    assert_eq!(resolved.recipe.name, "root");
    assert_eq!(resolved.recipe.run.dir, Path::new("runs/root"));
    assert_eq!(resolved.files.len(), 3);
}

#[test]
fn lists_replace_each_other_and_their_elements_can_be_set() {
    let corpus =
        |name: &str| format!("[[corpus]]\nname = \"{name}\"\npath = \"{name}.txt\"\nformat = \"text\"\n");
    let folder = Folder::new(&[
        ("base.toml", &format!("{SMALL}{}{}", corpus("a"), corpus("b"))),
        ("top.toml", &format!("extends = \"base.toml\"\n{}{}", corpus("c"), corpus("d"))),
    ]);
    let sets = ["corpus.1.limit=7", "corpus.0.group_by.lines=5", "corpus.0.path=[\"x\", \"y\"]"];
    let resolved = folder.load("top.toml", &sets).unwrap();
    let names: Vec<_> = resolved.recipe.corpus.iter().map(|corpus| corpus.name.as_str()).collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(resolved.recipe.corpus[1].limit, Some(7));
    assert_eq!(resolved.recipe.corpus[0].path.as_slice().len(), 2);
    assert_eq!(resolved.origins["corpus.1.limit"], Origin::Set(sets[0].into()));
    assert_eq!(resolved.origins["corpus.1.name"], file(folder.path("top.toml"), 7));

    let (message, hint, _) = folder.refusal("top.toml", &["corpus.2.limit=1"]);
    assert_eq!(message, "--set corpus.2.limit=1: `corpus` is a list; its elements have the numbers 0 to 1");
    assert!(hint.contains("corpus.0.limit=100"), "{hint}");
}

#[test]
fn set_takes_bare_words_toml_and_nothing() {
    let folder = Folder::new(&[("r.toml", &format!("{SMALL}max_minutes = 3\n"))]);
    let sets = [
        "run.dir=runs/a b",
        "name=2026",
        "training.dtype=bf16",
        "optimizer.learning_rate=5e-4",
        "pairs.exclude=[\"a\", 'b']",
        "training.clip_norm=2",
        "training.max_minutes=",
        "encoder.source=\"quoted\"",
        " decoder . tie_embeddings = false ",
        "split={dev=0.5}",
    ];
    let recipe = folder.load("r.toml", &sets).unwrap().recipe;
    assert_eq!(recipe.run.dir, Path::new("runs/a b"));
    assert_eq!(recipe.name, "2026");
    assert_eq!(recipe.training.dtype, models::Dtype::Bf16);
    assert_eq!(recipe.optimizer.learning_rate, 5e-4);
    assert_eq!(recipe.pairs.exclude, [Path::new("a"), Path::new("b")]);
    assert_eq!(recipe.training.clip_norm, 2.0);
    assert_eq!(recipe.training.max_minutes, None);
    assert_eq!(recipe.encoder.source, "quoted");
    assert!(!recipe.decoder.tie_embeddings);
    assert_eq!((recipe.split.dev, recipe.split.test), (0.5, Recipe::default().split.test));
}

#[test]
fn a_resolved_recipe_loads_as_itself() {
    let folder = Folder::new(&[(
        "r.toml",
        &format!(
            "{SMALL}[curation]\nmin_words = 2\nnear_duplicates = {{ threshold = 0.7 }}\n\
             [[corpus]]\nname = \"a \\\"b\\\" # c\"\npath = [\"x\", \"y\"]\nformat = \"tsv\"\ncolumns = [1, \"t\\nu\"]\n\
             group_by = {{ lines = 5 }}\n[decoder]\nkv_heads = 4\ninput_scale = 1e-7\n"
        ),
    )]);
    let resolved = folder.load("r.toml", &["pairs.dir=runs/x", "optimizer.eps=1e-12"]).unwrap();
    for (name, text) in
        [("plain.toml", resolved.to_toml()), ("origins.toml", resolved.to_toml_with_origins())]
    {
        fs_err::write(folder.path(name), &text).unwrap();
        let again = folder.load(name, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.recipe, resolved.recipe, "{text}");
        assert_eq!(again.to_toml(), resolved.to_toml());
    }
}

#[test]
fn one_prompt_or_several() {
    let with = |lines: &str| SMALL.replacen("source", &format!("{lines}\nsource"), 1);
    let folder = Folder::new(&[("r.toml", &with("prompts = [\"none\", \"s2p\"]\nattention = \"causal\""))]);
    let resolved = folder.load("r.toml", &["encoder.normalize=false"]).unwrap();
    let options = resolved.recipe.encoder_options();
    assert_eq!(options.prompt.as_deref(), Some("none"), "the first is that of one encoder alone");
    assert_eq!((options.normalize, options.attention), (Some(false), Some(models::Attention::Causal)));
    fs_err::write(folder.path("again.toml"), resolved.to_toml()).unwrap();
    assert_eq!(folder.load("again.toml", &[]).unwrap().recipe, resolved.recipe);
    let other = folder.load("r.toml", &["encoder.prompts=", "encoder.prompt=s2s"]).unwrap().recipe;
    assert_eq!(other.encoder_options().prompt.as_deref(), Some("s2s"));

    assert_eq!(
        refused(&with("prompts = [\"none\", \"s2p\"]\nprompt = \"s2s\"")),
        "r.toml:2: `encoder.prompts` and `encoder.prompt` (\"s2s\") are both said; leave one of them out"
    );
    assert_eq!(
        refused(&with("prompts = []")),
        "r.toml:2: `encoder.prompts` is empty; a text needs one at least, and \"none\" is one"
    );
    assert_eq!(
        refused(&with("prompts = [\"a\", \"b\", \"a\", \"a\"]")),
        "r.toml:2: `encoder.prompts` names \"a\" more than once"
    );
    let word = refused(&with("attention = \"causl\""));
    assert!(word.contains("`encoder.attention` must be one of \"bidirectional\", \"causal\""), "{word}");
}

#[test]
fn every_shown_value_has_its_origin() {
    let folder = Folder::new(&[("r.toml", SMALL)]);
    let resolved = folder.load("r.toml", &["decoder.hidden=256"]).unwrap();
    let shown = resolved.to_toml_with_origins();
    let line = |start: &str| {
        shown.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}\n{shown}"))
    };
    assert!(line("max_steps").ends_with(&format!("# {}:4", folder.path("r.toml").display())));
    assert!(line("hidden").ends_with("# --set"));
    assert!(line("layers").ends_with("# default"));
    let bare: Vec<_> = shown.lines().filter(|line| line.contains(" = ") && !line.contains("  # ")).collect();
    assert!(bare.is_empty(), "{bare:?}");

    let json = resolved.to_json();
    assert_eq!(json["decoder.hidden"]["value"], 256);
    assert_eq!(json["decoder.hidden"]["origin"], "--set decoder.hidden=256");
    assert_eq!(json["optimizer.kind"]["value"], "adamw");
    let object = json.as_object().unwrap();
    assert!(object.values().all(|entry| !entry["value"].is_null()), "{json:#}");
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(
        refused(&format!("{SMALL}[decoder]\n\nhiden = 3\n")),
        "r.toml:7: unknown key `decoder.hiden`; the nearest key is `decoder.hidden`"
    );
    assert_eq!(
        refused(&format!("{SMALL}[decodr]\nhidden = 3\n")),
        "r.toml:5: unknown key `decodr`; the nearest key is `decoder`"
    );
    assert_eq!(
        refused(&format!("{SMALL}learning_rate = 0.1\n")),
        "r.toml:5: unknown key `training.learning_rate`; there is `optimizer.learning_rate`"
    );
    assert_eq!(
        refused(&format!("{SMALL}[run]\nzzzz = 3\n")),
        "r.toml:6: unknown key `run.zzzz`; the keys of [run] are dir"
    );
    assert_eq!(
        refused(&format!("{SMALL}[[corpus]]\nname = \"a\"\npath = \"b\"\nformat = \"text\"\nlimitt = 3\n")),
        "r.toml:9: unknown key `corpus.0.limitt`; the nearest key is `corpus.0.limit`"
    );
    assert_eq!(
        refused_set("decoder.hiden=3"),
        "--set decoder.hiden=3: unknown key `decoder.hiden`; the nearest key is `decoder.hidden`"
    );
    let (_, hint, _) = Folder::new(&[("r.toml", SMALL)]).refusal("r.toml", &["decoder.hiden=3"]);
    assert_eq!(hint, "did you mean `decoder.hidden`?");
}

#[test]
fn wrong_types_name_what_is_expected() {
    let section = |rest: &str| refused(&format!("{SMALL}{rest}\n"));
    assert_eq!(
        section("[decoder]\nhidden = \"big\""),
        "r.toml:6: `decoder.hidden` must be a whole number, not the text \"big\""
    );
    assert_eq!(
        section("seed = -1"),
        "r.toml:5: `training.seed` must be a whole number that is not negative, not -1"
    );
    assert_eq!(
        section("keep_last = 1.5"),
        "r.toml:5: `training.keep_last` must be a whole number that is not negative, not 1.5"
    );
    assert_eq!(section("clip_norm = true"), "r.toml:5: `training.clip_norm` must be a number, not true");
    assert_eq!(
        section("[tokenizer]\nvocab = 99999999999999999999"),
        "r.toml:6: `tokenizer.vocab` must be a whole number that is not negative, not the text \"99999999999999999999\""
    );
    assert_eq!(
        section("[decoder]\ntie_embeddings = 1"),
        "r.toml:6: `decoder.tie_embeddings` must be true or false, not 1"
    );
    assert_eq!(refused(&format!("name = 3\n{SMALL}")), "r.toml:1: `name` must be a text in quotes, not 3");
    assert_eq!(refused(&format!("decoder = 3\n{SMALL}")), "r.toml:1: `decoder` must be a table, not 3");
    assert_eq!(
        refused(&format!("corpus = \"a\"\n{SMALL}")),
        "r.toml:1: `corpus` must be a list in [brackets], not the text \"a\""
    );
    assert_eq!(
        section("[schedule]\nkind = \"cosin\""),
        "r.toml:6: `schedule.kind` must be one of \"cosine\", \"linear\", \"constant\", not \"cosin\""
    );
    assert_eq!(
        section("[[corpus]]\nname = \"a\"\npath = 5\nformat = \"text\""),
        "r.toml:7: `corpus.0.path` has a value of a kind that does not fit: 5"
    );
    assert_eq!(
        section("[[corpus]]\nname = \"a\"\nformat = \"text\""),
        "r.toml:5: `corpus.0.path` is missing"
    );
    assert!(
        section("dtype = \"fp8\"").starts_with("r.toml:5: `training.dtype`: "),
        "{}",
        section("dtype = \"fp8\"")
    );
    assert_eq!(
        refused_set("training.max_steps=many"),
        "--set training.max_steps=many: `training.max_steps` must be a whole number that is not negative, not the text \"many\""
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let (message, _, about_arguments) = Folder::new(&[(
        "r.toml",
        "[encoder]\nsorce = 3\n[decoder]\nhidden = \"x\"\nlayers = 1.5\n[[corpus]]\nname = 1\npath = \"p\"\nformat = \"txt\"\n",
    )])
    .refusal("r.toml", &["run.dirr=x"]);
    assert_eq!(
        message,
        "6 problems in the recipe r.toml:\n  \
         r.toml:2: unknown key `encoder.sorce`; the nearest key is `encoder.source`\n  \
         r.toml:4: `decoder.hidden` must be a whole number, not the text \"x\"\n  \
         r.toml:5: `decoder.layers` must be a whole number, not 1.5\n  \
         r.toml:7: `corpus.0.name` must be a text in quotes, not 1\n  \
         r.toml:9: `corpus.0.format` must be one of \"text\", \"tsv\", \"csv\", \"jsonl\", \"json\", \"parquet\", \"sts\", \"beir\", \
         \"trec\", \"smart\", \"arxiv\", \"rustdoc\", not \"txt\"\n  \
         --set run.dirr=x: unknown key `run.dirr`; the nearest key is `run.dir`"
    );
    assert!(!about_arguments);

    let values = refused(
        "[decoder]\nheads = 3\nkv_heads = 0\n[training]\nclip_norm = -1.0\nema_decay = 1.0\nlog_every = 0\n\
         [optimizer]\nlearning_rate = nan\n[split]\ndev = 2\n[schedule]\nfinal_fraction = 1.5\n",
    );
    assert_eq!(
        values,
        "9 problems in the recipe r.toml:\n  \
         `encoder.source` is missing: a sentence-transformers folder or a hub name\n  \
         `training.max_steps` and `training.max_minutes` are both missing: one must say when to stop\n  \
         r.toml:3: `decoder.kv_heads` is 0; it must be at least 1 and below 2^31\n  \
         r.toml:5: `training.clip_norm` is -1; it must be 0 (no clipping) or a positive number\n  \
         r.toml:6: `training.ema_decay` is 1; it must be at least 0 and below 1\n  \
         r.toml:7: `training.log_every` is 0; it must be at least 1\n  \
         r.toml:9: `optimizer.learning_rate` is NaN; it must be a positive number\n  \
         r.toml:11: `split.dev` is 2: a share lies within 0 and 1\n  \
         r.toml:13: `schedule.final_fraction` is 1.5; a share lies within 0 and 1"
    );
}

#[test]
fn numbers_that_do_not_fit_together_are_refused() {
    let section = |rest: &str| refused(&format!("{SMALL}{rest}\n"));
    assert_eq!(
        section("[decoder]\nheads = 3"),
        "r.toml:6: `decoder.heads` is 3; it must divide `decoder.hidden` = 512, or `decoder.head_dim` must be said"
    );
    assert!(section("[decoder]\nkv_heads = 3").starts_with("r.toml:6: `decoder.kv_heads` "));
    assert!(section("[decoder]\nhead_dim = 5").starts_with("r.toml:6: `decoder.head_dim` "));
    assert!(
        section("batch_tokens = 5")
            .contains("the longest text, decoder.max_tokens = 128, must fit into a step")
    );
    assert!(
        section("[run]\ndir = \"a\"\n[pairs]\ndir = \"a\"")
            .contains("`run.dir` is a, the folder of the pairs too")
    );
    let twice = "[[corpus]]\nname = \"a\"\npath = \"p\"\nformat = \"text\"\n";
    assert_eq!(
        section(&format!("{twice}{twice}")),
        "r.toml:10: `corpus.1.name` is \"a\", as another corpus is called already"
    );
    assert_eq!(
        section("[refinement]\nshare = 1.5"),
        "r.toml:6: `refinement.share` is 1.5; a share lies within 0 and 1"
    );
    assert!(section("[refinement]\nkeep_sets = 0").contains("`refinement.keep_sets` is 0"));
    assert!(section("[refinement]\ntemperature = 0.0").contains("`refinement.temperature` is 0"));
    let columns = section("[[corpus]]\nname = \"a.b\"\npath = \"p\"\nformat = \"tsv\"");
    assert!(columns.starts_with("r.toml:") && columns.contains("`corpus.0.columns` is []"), "{columns}");
}

#[test]
fn files_that_are_no_recipes_are_refused() {
    let folder = Folder::new(&[
        ("syntax.toml", "name = \"a\"\n[encoder\nsource = 1\n"),
        ("twice.toml", "name = \"a\"\nname = \"b\"\n"),
        ("a.toml", "extends = \"deep/b.toml\"\n"),
        ("deep/b.toml", "\nextends = \"../a.toml\"\n"),
        ("self.toml", "extends = \"self.toml\"\n"),
        ("gone.toml", "# a comment\nextends = \"no-such.toml\"\n"),
        ("list.toml", "extends = [\"a.toml\"]\n"),
    ]);
    let (syntax, hint, _) = folder.refusal("syntax.toml", &[]);
    assert!(syntax.starts_with("syntax.toml:2:9: not TOML: "), "{syntax}");
    assert!(!syntax.contains('\n') && hint.contains("toml.io"), "{syntax} {hint}");
    assert!(folder.refusal("twice.toml", &[]).0.starts_with("twice.toml:2:1: not TOML: duplicate key"));
    assert_eq!(
        folder.refusal("a.toml", &[]).0,
        "recipes extend each other in a circle: a.toml -> deep/b.toml -> deep/../a.toml"
    );
    assert_eq!(
        folder.refusal("self.toml", &[]).0,
        "recipes extend each other in a circle: self.toml -> self.toml"
    );
    let (gone, hint, about_arguments) = folder.refusal("gone.toml", &[]);
    assert!(gone.starts_with("gone.toml:2: cannot read the recipe no-such.toml: No such file"), "{gone}");
    assert!(hint.contains("relative to the file") && !about_arguments, "{hint}");
    assert_eq!(
        folder.refusal("list.toml", &[]).0,
        "list.toml:1:1: not TOML: `extends` must be one path in quotes"
    );
    let (missing, hint, _) = folder.refusal("never.toml", &[]);
    assert!(
        missing.starts_with("cannot read the recipe never.toml: ") && hint.contains("configs/"),
        "{missing} {hint}"
    );
    fs_err::write(folder.path("bytes.toml"), b"# one\nname = \"\xff\"\n").unwrap();
    assert_eq!(folder.refusal("bytes.toml", &[]).0, "bytes.toml:2:9: not TOML: bytes that are no UTF-8");
}

#[test]
fn sets_that_make_no_sense_are_refused() {
    assert_eq!(refused_set("decoder.hidden"), "--set decoder.hidden: there is no `=` between key and value");
    assert_eq!(refused_set("=3"), "--set =3: a part of the key is empty");
    assert_eq!(refused_set("decoder..hidden=3"), "--set decoder..hidden=3: a part of the key is empty");
    assert_eq!(refused_set("extends=x"), "--set extends=x: `extends` can be said in a file only");
    assert_eq!(
        refused_set("corpus.0.limit=3"),
        "--set corpus.0.limit=3: `corpus` must be a list in [brackets], not a table"
    );
}

#[test]
fn numbers_beyond_all_machines_are_refused() {
    for (rest, key) in [
        ("max_minutes = 1e300", "`training.max_minutes` is 1"),
        ("max_minutes = inf", "`training.max_minutes` is inf"),
        ("threads = 1025", "`training.threads` is 1025"),
        ("[tokenizer]\nvocab = 4294967296", "`tokenizer.vocab` is 4294967296"),
        ("[decoder]\nhidden = 2000000\nlayers = 1000", "`decoder.hidden` is 2000000; with layers 1000"),
        (
            "[decoder]\nhidden = 2147483647\nprojector_hidden = 1000\nhead_dim = 2147483646\nheads = 2147483647",
            "`decoder.hidden` is 2147483647",
        ),
        ("[decoder]\nprojector_hidden = 2000000000", "`decoder.hidden` is 512"),
    ] {
        let problem = refused(&format!("{SMALL}{rest}\n"));
        assert!(problem.contains(key), "{rest}: {problem}");
    }
}

#[test]
fn muon_and_normalised_input_are_checked() {
    let section = |lines: &str| refused(&format!("{SMALL}{lines}"));
    let word = section("[optimizer]\nkind = \"muon\"\nmomentum = 1.0\nnewton_schulz_iterations = 0\n");
    assert!(word.contains("`optimizer.momentum` is 1; it must be at least 0 and below 1"), "{word}");
    assert!(word.contains("`optimizer.newton_schulz_iterations` is 0; it must be at least 1"), "{word}");
    let word = section("[decoder]\ninput_scale = 4.0\ninput_normalization = \"robust\"\n");
    assert!(word.contains("`decoder.input_scale` and `decoder.input_normalization` are both said"), "{word}");
    let word = section("[decoder]\ninput_normalization = \"minmax\"\n");
    assert!(word.contains("\"none\", \"standard\", \"robust\""), "{word}");
}
