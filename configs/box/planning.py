"""What is trained: a size that suits the minutes and the memory."""

import json
import shutil

import measuring
from measuring import BATCH_TOKENS, KEYS, PARTS, SIZES, TINY


def settings(args, size, manifest, steps, parts=None, processes=1, every=None):
    """What is changed in the recipe for a size; `parts` of a step where not the usual ones; `every` so many steps it is
    looked at and saved."""
    # the minutes say when it ends
    sets = [f"training.device={args.device}", f"encoder.device={args.device}", "training.max_steps=", "training.max_minutes=60"]
    sets += [f"pairs.dir={steps.pairs}", f"run.dir={steps.run_folder}"]
    shapes = TINY if args.tiny else SIZES
    if size in shapes:
        sets += [f"decoder.{key}={value}" for key, value in zip(KEYS, shapes[size])]
        # the recipe's own belong to its own width
        sets += ["decoder.kv_heads=", "decoder.head_dim=", "decoder.projector_hidden="]
        sets += [f"optimizer.learning_rate={learning_rate(manifest, shapes[size][0]):.3g}"]
        sets += [f"training.batch_tokens={256 if args.tiny else BATCH_TOKENS[size]}"]
        sets += [f"training.accumulate={parts or (1 if args.tiny else usual_parts(size, processes))}"]
    if every:
        sets += [f"training.eval_every={every}", f"training.checkpoint_every={every}"]
    if args.tiny:
        sets += ["tokenizer.vocab=400", "training.eval_every=0", "training.eval_texts=16", "refinement.share=0"]
        sets += ["schedule.warmup_steps=2", *(f"corpus.{at}.limit=400" for at in range(manifest["corpora"]))]
    # what the user says comes last, and holds
    return [word for value in [*sets, *args.set] for word in ("--set", value)]


def learning_rate(manifest, hidden):
    """The recipe's, made smaller as a decoder is wider than the recipe's (Yang et al., arXiv 2203.03466, for Adam's). A rule that
    was not measured here."""
    return manifest["learning_rate"] * min(1, manifest["hidden"] / hidden)


def usual_parts(size, processes):
    """Parts of a step, which several processes share."""
    return max(1, PARTS[size] // processes)


def choose(args, seconds):
    """(name of the size, why), by the speeds that the phases bench and gpus measured."""
    if args.size:
        return args.size, "as --size says"
    timed = {step["step"].removeprefix("train-"): step for step in measured(args, "bench")}
    timed = {name: step for name, step in timed.items() if name in SIZES}
    if not timed:
        return "recipe", "the speed of training was not measured here (phase bench)"
    # those that did not fit the memory have no speed
    speeds = {name: step["found"] for name, step in timed.items() if step["outcome"] == "ok"}
    slow = [name for name, step in timed.items() if step["outcome"] in ("out of time", "no time was left")]
    failed = [name for name in timed if name not in speeds and name not in slow]
    if not speeds:
        return "recipe", f"no size could be timed (too slow: {', '.join(slow) or 'none'}; failed: {', '.join(failed) or 'none'})"
    tokens = {name: found["tokens_per_s"] * gain(args) * seconds for name, found in speeds.items()}
    chosen = min(speeds, key=lambda name: speeds[name]["parameters"])
    for name, found in sorted(speeds.items(), key=lambda item: item[1]["parameters"]):
        if tokens[name] >= args.tokens_per_parameter * found["parameters"]:
            chosen = name
    each = tokens[chosen] / speeds[chosen]["parameters"]
    seen = f"{tokens[chosen] / 1e6:.3g} M in about {tokens[chosen] / (256 if args.tiny else BATCH_TOKENS[chosen]):.0f} steps"
    why = f"the largest that sees {args.tokens_per_parameter:g} tokens a parameter in {seconds / 60:.1f} minutes: it sees {each:.2f}, {seen}"
    if each < args.tokens_per_parameter:
        why = f"the smallest there is: even it sees only {each:.2f} tokens a parameter in {seconds / 60:.1f} minutes, {seen}"
    for names, what in ((slow, "too slow to be timed here"), (failed, "failed here")):
        why += f"; {what}: {', '.join(names)}" if names else ""
    return chosen, why


def gain(args):
    """What the GPUs that it trains on are worth in ones; what was not measured is not counted on."""
    of_gpus = measured(args, "gpus")
    return measuring.gain(of_gpus).get(measuring.proven(args, of_gpus), 1.0)


def cadence(args, size, seconds):
    """Steps between two looks at it, each with a checkpoint: a minute, or a tenth of a long training; None where no step was
    timed."""
    timed = next((step for step in measured(args, "bench") if step["step"] == f"train-{size}" and step["outcome"] == "ok"), None)
    if timed is None or args.tiny:
        return None
    steps_a_second = timed["found"]["tokens_per_s"] * gain(args) / BATCH_TOKENS[size]
    return max(1, round(max(60, seconds / 10) * steps_a_second))


def measured(args, phase):
    """The steps of a phase that ran, here or in an earlier call."""
    try:
        found = json.loads((args.out / f"{phase}.json").read_text(encoding="utf-8"))
        # not what another machine was like
        return found["steps"] if found["made"] == args.made else []
    except (OSError, ValueError, KeyError):
        return []


# of a GPU's memory, what a training may count on
USABLE = 0.9
# target tokens of a part at least
LEAST_PART = 1024


def fitting(steps, args, manifest, size, why):
    """(size, parts of a step, why): as chosen, in more parts or smaller where the memory asks for it."""
    there = measuring.device_bytes(args, measured(args, "doctor"))
    if there is None or size not in SIZES:
        return size, None, why
    processes = measuring.proven(args, measured(args, "gpus"))
    sizes = list(SIZES)[: list(SIZES).index(size) + 1]
    for smaller in reversed(sizes):
        usual = parts = usual_parts(smaller, processes)
        while BATCH_TOKENS[smaller] // parts >= LEAST_PART:
            # reckoned, so that it takes no time and no memory
            flags = [*settings(args, smaller, manifest, steps, parts), "--set", f"encoder.dim={manifest['dim']}"]
            flags += ["--dry-run", "--on-paper", "--processes", processes, "--json"]
            done = steps.run("memory", "train", "--recipe", "recipe.toml", *flags, limit=60, again=True)
            needs = steps.found("memory").get("memory", {}).get("total") if done else None
            if needs is None or needs <= USABLE * there:
                if (smaller, parts) != (size, usual):
                    why += f"; {smaller} in {parts} parts a step, for the memory of {there / 1e9:.0f} GB"
                return smaller, parts, why
            parts *= 2
    return sizes[0], None, f"{why}; by the reckoning not even that fits the memory"


def plan_of(steps, args, manifest, seconds, run):
    """The plan of the run that goes on, or a new one's: size, parts of a step, why."""
    file = run / "plan.json"
    if (run / "checkpoints" / "latest").is_file() and file.is_file():
        plan = json.loads(file.read_text(encoding="utf-8"))
        if args.size and args.size != plan["size"]:
            raise ValueError(f"the run that is there is of size {plan['size']}: choose another --out, or remove {run} and {args.out / 'run'}")
        if plan.get("parts"):
            # each process has its share of a step, and there may be fewer now
            whole = plan["parts"] * plan.get("processes", 1)
            plan["processes"] = measuring.proven(args, measured(args, "gpus"))
            plan["parts"] = max(1, -(-whole // plan["processes"]))
        return plan | dict(why=f"as the run that goes on ({plan['why']})")
    size, parts, why = fitting(steps, args, manifest, *choose(args, seconds))
    if size in SIZES and not args.tiny:
        # said, so that another call goes on with it, on however many GPUs
        parts = parts or usual_parts(size, measuring.proven(args, measured(args, "gpus")))
    processes = measuring.proven(args, measured(args, "gpus"))
    return noted(run, dict(size=size, parts=parts, processes=processes, every=cadence(args, size, seconds), why=why))


def noted(run, plan):
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.json").write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    return plan


def smaller_parts(steps, run, plan):
    """The same plan in twice the parts, where the memory was too small for it."""
    if not steps.done["train"]["outcome"].startswith("failed") or plan["size"] not in SIZES:
        return None
    log = (steps.folder / "train.log").read_text(encoding="utf-8", errors="replace")
    parts = 2 * (plan.get("parts") or PARTS[plan["size"]])
    if "out of memory" not in log or BATCH_TOKENS[plan["size"]] // parts < LEAST_PART:
        return None
    if not (run / "checkpoints" / "latest").is_file():
        shutil.rmtree(run)
    return noted(run, plan | dict(parts=parts, why=f"{plan['why']}; the memory was too small, so {parts} parts a step"))
