//! The parameter store: ordered, named, shape-checked tensors.
//!
//! A training store keeps two leaves for every parameter where the compute type is not f32: the f32 master, which
//! the optimizer owns, and a copy in the compute type, which the matrix products read. [`ParamStore::refresh`]
//! brings the copies up to date once a step, so no layer casts its weights. An inference store keeps one tensor.
//!
//! Names on disk are those of Hugging Face's checkpoints. A parameter may be several tensors on disk and one in
//! memory (query, key and value; gate and up), because one large matrix product is faster than three small ones.

pub use crate::init::Init;
use crate::weights::Weights;
use crate::{Error, Result};
use std::collections::HashSet;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// What kind of parameter it is; the optimizer treats the groups differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Matrices between hidden layers: weight decay, candidates for Muon.
    Matrix,
    /// Embedding tables and vocabulary heads: weight decay, never Muon.
    Embedding,
    /// Gains of norms, and biases: no weight decay.
    Gain,
}

/// One tensor on disk: some rows of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name in the checkpoint.
    pub name: String,
    /// Number of rows (elements for a vector) that this tensor holds.
    pub rows: i64,
}

/// One parameter of the store.
#[derive(Debug)]
pub struct Param {
    /// Unique name: that of the tensor on disk, or those of the parts joined by `+`.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// What it is called on disk; the rows of the parts add up to the rows of the tensor.
    pub parts: Vec<Part>,
    /// The precise value: f32 in training, the inference type otherwise.
    pub master: Tensor,
    /// What matrix products read. The same tensor as `master` where the types are equal.
    pub compute: Tensor,
    /// Whether the forward pass reads the master too, as embeddings are looked up in it.
    looked_up: bool,
}

impl Param {
    /// Number of elements.
    pub fn numel(&self) -> i64 {
        self.master.size().iter().product()
    }

    fn shared(&self) -> bool {
        self.master.kind() == self.compute.kind()
    }

    /// The parts with the row at which each begins.
    fn offsets(&self) -> impl Iterator<Item = (&Part, i64)> {
        self.parts.iter().scan(0, |next, part| {
            let start = *next;
            *next += part.rows;
            Some((part, start))
        })
    }
}

#[derive(Debug, Clone)]
enum Mode {
    Train { compute: Kind, seed: u64 },
    Inference { kind: Kind },
    Read { kind: Kind, weights: Rc<Weights> },
    Untrained { kind: Kind },
}

/// Parameters and buffers of a model, in the order in which the model asked for them.
#[derive(Debug)]
pub struct ParamStore {
    device: Device,
    mode: Mode,
    params: Vec<Param>,
    /// f32 tensors that are saved but not trained.
    buffers: Vec<(String, Tensor)>,
}

impl ParamStore {
    /// A store for training: f32 masters and, where `compute` is another type, copies in it. The same `seed` gives
    /// the same bytes, whatever the device; each parameter's values depend on the seed and its own name alone.
    pub fn train(device: Device, compute: Kind, seed: u64) -> Self {
        Self { device, mode: Mode::Train { compute, seed }, params: Vec::new(), buffers: Vec::new() }
    }

    /// A store for inference: one tensor a parameter, of type `kind`, without gradients, zero until loaded.
    pub fn inference(device: Device, kind: Kind) -> Self {
        Self { device, mode: Mode::Inference { kind }, params: Vec::new(), buffers: Vec::new() }
    }

    /// A store for the inference of a model that lies in one set of files: each parameter is read as the model asks
    /// for it, without gradients. In the files' own type it is a view of the mapped file (copied only where several
    /// tensors on disk are one in memory), otherwise it is converted; never is more than one tensor in memory twice.
    /// Tensors that the model does not ask for are left alone.
    pub fn read(device: Device, kind: Kind, weights: Rc<Weights>) -> Self {
        Self { device, mode: Mode::Read { kind, weights }, params: Vec::new(), buffers: Vec::new() }
    }

    /// A store for measuring the inference of a model without its files: random values that are made on the device,
    /// others every time, without gradients.
    pub fn untrained(device: Device, kind: Kind) -> Self {
        Self { device, mode: Mode::Untrained { kind }, params: Vec::new(), buffers: Vec::new() }
    }

    /// Device of all tensors.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Type in which the forward pass computes.
    pub fn compute_kind(&self) -> Kind {
        match &self.mode {
            Mode::Train { compute, .. } => *compute,
            Mode::Inference { kind } | Mode::Read { kind, .. } | Mode::Untrained { kind } => *kind,
        }
    }

    /// Adds a parameter and returns the tensor that the forward pass uses.
    ///
    /// # Errors
    /// A name that is taken already; for a store that [reads](Self::read), a tensor that is missing or misshapen.
    pub fn tensor(&mut self, name: &str, shape: &[i64], init: Init, group: Group) -> Result<Tensor> {
        let rows = shape.first().copied().unwrap_or(1);
        Ok(self.add(&[(name, rows)], shape.to_vec(), init, group)?.compute.shallow_clone())
    }

    /// Adds a parameter whose f32 master takes part in the forward pass too, and returns (master, compute). An
    /// embedding is looked up in the master: gradients of frequent tokens summed in bf16 would lose their counts.
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn tensor_and_master(
        &mut self,
        name: &str,
        shape: &[i64],
        init: Init,
        group: Group,
    ) -> Result<(Tensor, Tensor)> {
        let rows = shape.first().copied().unwrap_or(1);
        let param = self.add(&[(name, rows)], shape.to_vec(), init, group)?;
        param.looked_up = true;
        Ok((param.master.shallow_clone(), param.compute.shallow_clone()))
    }

    /// Adds a parameter that is one tensor in memory and several on disk, stacked by rows. `columns` is `None` for
    /// vectors (biases).
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn fused(
        &mut self,
        parts: &[(&str, i64)],
        columns: Option<i64>,
        init: Init,
        group: Group,
    ) -> Result<Tensor> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape = std::iter::once(rows).chain(columns).collect();
        Ok(self.add(parts, shape, init, group)?.compute.shallow_clone())
    }

    /// Adds an f32 tensor that is saved and loaded but not trained.
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn buffer(&mut self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.require_new(name)?;
        let seed = if let Mode::Train { seed, .. } = self.mode { seed } else { 0 };
        let tensor = init.seeded(&[(name, 1)], shape, seed)?.f_to_device(self.device)?;
        self.buffers.push((name.to_owned(), tensor.shallow_clone()));
        Ok(tensor)
    }

    fn require_new(&self, name: &str) -> Result<()> {
        let taken = self.params.iter().flat_map(|param| &param.parts).any(|part| part.name == name)
            || self.buffers.iter().any(|(other, _)| other == name);
        if taken { Err(Error::DuplicateTensor { tensor: name.to_owned() }) } else { Ok(()) }
    }

    fn add(
        &mut self,
        named: &[(&str, i64)],
        shape: Vec<i64>,
        init: Init,
        group: Group,
    ) -> Result<&mut Param> {
        for (name, _) in named {
            self.require_new(name)?;
        }
        let (master, compute) = match &self.mode {
            &Mode::Inference { kind } => {
                let tensor = Tensor::f_zeros(&shape, (kind, self.device))?;
                (tensor.shallow_clone(), tensor)
            }
            &Mode::Untrained { kind } => {
                let tensor = init.on_device(&shape, kind, self.device)?;
                (tensor.shallow_clone(), tensor)
            }
            Mode::Read { kind, weights } => {
                let tensor = match named {
                    [(name, _)] => weights.load(name, &shape, *kind, self.device)?,
                    _ => weights.load_stacked(named, &shape[1..], *kind, self.device)?,
                };
                (tensor.shallow_clone(), tensor)
            }
            &Mode::Train { compute, seed } => {
                let master = init.seeded(named, &shape, seed)?.f_to_device(self.device)?;
                let copy = if compute == Kind::Float {
                    master.f_set_requires_grad(true)?
                } else {
                    master.f_to_kind(compute)?.f_set_requires_grad(true)?
                };
                (master.f_set_requires_grad(true)?, copy)
            }
        };
        let name = named.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("+");
        let parts = named.iter().map(|&(name, rows)| Part { name: name.to_owned(), rows }).collect();
        self.params.push(Param { name, group, parts, master, compute, looked_up: false });
        let last = self.params.len() - 1;
        Ok(&mut self.params[last])
    }

    /// The parameters, in the order of creation.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The buffers (saved, not trained), in the order of creation.
    pub fn buffers(&self) -> &[(String, Tensor)] {
        &self.buffers
    }

    /// Puts values into a buffer.
    ///
    /// # Errors
    /// [`Error::TensorsDiffer`] for a buffer that the store lacks or that has another shape.
    pub fn set_buffer(&self, name: &str, values: &Tensor) -> Result<()> {
        let problem = match self.buffers.iter().find(|(own, _)| own == name) {
            Some((_, buffer)) if buffer.size() == values.size() => {
                return Ok(buffer.shallow_clone().f_copy_(values)?);
            }
            Some((_, buffer)) => {
                format!("`{name}` has shape {:?} instead of {:?}", values.size(), buffer.size())
            }
            None => format!("`{name}` is not part of the model"),
        };
        Err(Error::TensorsDiffer { path: "memory".into(), problems: vec![problem] })
    }

    /// Number of trained elements.
    pub fn numel(&self) -> i64 {
        self.params.iter().map(Param::numel).sum()
    }

    /// Brings the compute copies up to date with the masters; to be called after every change of the masters.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn refresh(&self) -> Result<()> {
        let (mut copies, mut masters) = (Vec::new(), Vec::new());
        for param in self.params.iter().filter(|param| !param.shared()) {
            copies.push(param.compute.shallow_clone());
            masters.push(param.master.shallow_clone());
        }
        if !copies.is_empty() {
            tch::no_grad(|| torch_ext::foreach_copy(&copies, &masters))?;
        }
        Ok(())
    }

    /// The tensors that a backward pass leaves gradients at, each with the number of its parameter: of every parameter
    /// what matrix products read, and the f32 master too where the forward pass looks rows up in it.
    pub fn leaves(&self) -> Vec<(usize, &Tensor)> {
        let mut leaves = Vec::new();
        for (number, param) in self.params.iter().enumerate() {
            leaves.push((number, &param.compute));
            if param.looked_up && !param.shared() {
                leaves.push((number, &param.master));
            }
        }
        leaves
    }

    /// Everything that belongs in a checkpoint, under its name on disk: parameters in master precision, split into
    /// their parts, then buffers. Views of the live tensors: save or copy them before the next step.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let of_params = self.params.iter().flat_map(|param| {
            let master = param.master.detach();
            param.offsets().map(move |(part, start)| {
                let tensor = if param.parts.len() == 1 {
                    master.shallow_clone()
                } else {
                    master.narrow(0, start, part.rows)
                };
                (part.name.clone(), tensor)
            })
        });
        of_params.chain(self.buffers.iter().map(|(name, b)| (name.clone(), b.shallow_clone()))).collect()
    }

    /// Loads a checkpoint into the masters (f32) and refreshes the copies. Strict: every tensor must be there with
    /// its shape and type and no other may be, else nothing is changed.
    ///
    /// # Errors
    /// Missing, extra or misshapen tensors and such of another type than f32 (for inference any floating type will
    /// do), all named.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        self.load_prefixed(&[("", weights)])
    }

    /// As [`ParamStore::load`] from several files, each with what its names lack in front.
    ///
    /// # Errors
    /// As [`ParamStore::load`].
    pub fn load_prefixed(&mut self, files: &[(&str, &Weights)]) -> Result<()> {
        let targets = tch::no_grad(|| self.named_tensors());
        let wanted: Vec<_> = targets.iter().map(|(name, target)| (name.clone(), target.size())).collect();
        let found = find(&wanted, files, matches!(self.mode, Mode::Train { .. }), |_| false)?;
        tch::no_grad(|| -> Result<()> {
            for ((_, mut target), (weights, name)) in targets.into_iter().zip(found) {
                let source = weights.get(&name, &target.size())?;
                target.f_copy_(&source)?;
            }
            Ok(())
        })?;
        self.refresh()
    }
}

/// The file, and the name in it, of every tensor that is to be loaded, by name and shape. `precise`: as f32 alone.
/// `passed_over`: whether a tensor of the files that the model has no place for does no harm.
pub(crate) fn find<'a>(
    targets: &[(String, Vec<i64>)],
    files: &[(&str, &'a Weights)],
    precise: bool,
    passed_over: impl Fn(&str) -> bool,
) -> Result<Vec<(&'a Weights, String)>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (name, wanted) in targets {
        let holder = files.iter().find_map(|(prefix, weights)| {
            let inner = name.strip_prefix(prefix)?;
            weights.shape(inner).map(|shape| (*weights, inner, shape))
        });
        match holder {
            None => problems.push(format!("`{name}` is missing")),
            Some((_, _, shape)) if shape != *wanted => {
                problems.push(format!("`{name}` has shape {shape:?} instead of {wanted:?}"));
            }
            Some((weights, inner, _)) => match weights.kind(inner) {
                Some(Kind::Float) => found.push((weights, inner.to_owned())),
                Some(Kind::Double | Kind::Half | Kind::BFloat16) if !precise => {
                    found.push((weights, inner.to_owned()));
                }
                other => {
                    let other = other.map_or("that is unknown".to_owned(), |kind| format!("{kind:?}"));
                    problems.push(format!("`{name}` is of type {other} instead of Float"));
                }
            },
        }
    }
    let wanted: HashSet<&str> = targets.iter().map(|(name, _)| name.as_str()).collect();
    let names =
        files.iter().flat_map(|(prefix, weights)| weights.names().map(move |n| format!("{prefix}{n}")));
    let extra = names.filter(|name| !wanted.contains(name.as_str()) && !passed_over(name));
    problems.extend(extra.map(|name| format!("`{name}` is not part of the model")));
    if problems.is_empty() {
        return Ok(found);
    }
    let paths: Vec<String> = files.iter().map(|(_, weights)| weights.path().display().to_string()).collect();
    Err(Error::TensorsDiffer { path: paths.join(", ").into(), problems })
}
