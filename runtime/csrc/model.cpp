#include "model.h"

#include <stdexcept>

namespace {

constexpr int kRowsPerTask = 32;

Memory padded_floats(const void* source, Source type, int count, int width, int run, int stride) {
  Memory padded(size_t(width) * sizeof(float));
  for (int i = 0; i < count; i++)
    padded.as<float>()[i / run * stride + i % run] = element(source, type, size_t(i));
  return padded;
}

// Before anything is made from it.
const PagodaConfig& checked(const PagodaConfig& c) {
  for (int size : {c.vocab_size, c.hidden_size, c.intermediate_size, c.num_layers, c.num_heads,
                   c.num_kv_heads, c.head_dim, c.block_size, c.num_blocks, c.max_tokens, c.logits_rows,
                   c.threads})
    if (size < 1) throw std::invalid_argument("every size must be at least 1");
  if (c.head_dim % 2 != 0) throw std::invalid_argument("head_dim must be even");
  if (c.block_size % 2 != 0) throw std::invalid_argument("block_size must be even");
  if (c.num_heads % c.num_kv_heads != 0)
    throw std::invalid_argument("query heads must divide evenly among KV heads");
  return c;
}

}  // namespace

Model::Model(const PagodaConfig& c, const float* inverse_frequencies, const int32_t* windows)
    : config(checked(c)), team(c.threads) {
  frequencies.assign(inverse_frequencies, inverse_frequencies + c.head_dim / 2);
  frequencies.resize(half(), 0.0f);
  cache = Cache(c.num_blocks, c.num_layers, c.num_kv_heads, c.block_size, head_width());
  Format format = c.int8 ? Format::kInt8 : Format::kBf16;
  layers.resize(c.num_layers);
  for (int i = 0; i < c.num_layers; i++) {
    int qkv_outputs = (c.num_heads + 2 * c.num_kv_heads) * head_width();
    layers[i].window = windows[i];
    layers[i].qkv = Matrix(format, qkv_outputs, c.hidden_size, c.qkv_bias);
    layers[i].o = Matrix(format, c.hidden_size, c.num_heads * c.head_dim, c.o_bias);
    layers[i].gate_up = Matrix(format, 2 * mlp_width(), c.hidden_size, c.mlp_bias);
    layers[i].down = Matrix(format, c.hidden_size, c.intermediate_size, c.mlp_bias);
  }
  head = Matrix(format, c.vocab_size, c.hidden_size, false);
}

Rows Model::heads_from(int first_head) const {
  return {first_head * head_width(), config.head_dim / 2, half()};
}

void Model::pack(Matrix& matrix, Rows rows, int count, const void* data, Source type) {
  team.run([&](int) {
    team.each(ceil_div(count, kRowsPerTask), [&](int task, int) {
      int begin = task * kRowsPerTask;
      matrix.pack(rows, data, type, begin, std::min(count, begin + kRowsPerTask));
    });
  });
}

void Model::load(PagodaTensor tensor, int index, const void* data, Source type) {
  const PagodaConfig& c = config;
  const int hidden = c.hidden_size, mlp = c.intermediate_size;
  const int q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  const Rows q = heads_from(0), k = heads_from(c.num_heads),
             v = heads_from(c.num_heads + c.num_kv_heads);
  const Rows gate{0, kPanel / 2, kPanel}, up{kPanel / 2, kPanel / 2, kPanel};
  auto norm = [&](int n, int width) { return padded_floats(data, type, n, width, n, n); };
  auto head_norm = [&] {
    return padded_floats(data, type, c.head_dim, head_width(), c.head_dim / 2, half());
  };

  if (tensor == PAGODA_EMBEDDING) {
    if (type == Source::kBf16) {
      embedding = static_cast<const bf16*>(data);
    } else {
      size_t count = size_t(c.vocab_size) * hidden;
      own_embedding = Memory(count * sizeof(bf16));
      bf16* own = own_embedding.as<bf16>();
      for (size_t i = 0; i < count; i++) own[i] = to_bf16(element(data, type, i));
      embedding = own;
    }
    if (c.tie_embeddings) pack(head, {}, c.vocab_size, data, type);
    return;
  }
  if (tensor == PAGODA_LM_HEAD) return pack(head, {}, c.vocab_size, data, type);
  if (tensor == PAGODA_FINAL_NORM) {
    final_norm = norm(hidden, hidden_width());
    return;
  }
  if (index < 0 || index >= c.num_layers) throw std::out_of_range("no such layer");
  Layer& layer = layers[index];
  switch (tensor) {
    case PAGODA_INPUT_NORM: layer.input_norm = norm(hidden, hidden_width()); return;
    case PAGODA_POST_NORM: layer.post_norm = norm(hidden, hidden_width()); return;
    case PAGODA_Q_NORM: layer.q_norm = head_norm(); return;
    case PAGODA_K_NORM: layer.k_norm = head_norm(); return;
    case PAGODA_Q_WEIGHT: return pack(layer.qkv, q, q_size, data, type);
    case PAGODA_K_WEIGHT: return pack(layer.qkv, k, kv_size, data, type);
    case PAGODA_V_WEIGHT: return pack(layer.qkv, v, kv_size, data, type);
    case PAGODA_O_WEIGHT: return pack(layer.o, {}, hidden, data, type);
    case PAGODA_GATE_WEIGHT: return pack(layer.gate_up, gate, mlp, data, type);
    case PAGODA_UP_WEIGHT: return pack(layer.gate_up, up, mlp, data, type);
    case PAGODA_DOWN_WEIGHT: return pack(layer.down, {}, hidden, data, type);
    case PAGODA_Q_BIAS: return layer.qkv.set_bias(q, data, type, q_size);
    case PAGODA_K_BIAS: return layer.qkv.set_bias(k, data, type, kv_size);
    case PAGODA_V_BIAS: return layer.qkv.set_bias(v, data, type, kv_size);
    case PAGODA_O_BIAS: return layer.o.set_bias({}, data, type, hidden);
    case PAGODA_GATE_BIAS: return layer.gate_up.set_bias(gate, data, type, mlp);
    case PAGODA_UP_BIAS: return layer.gate_up.set_bias(up, data, type, mlp);
    case PAGODA_DOWN_BIAS: return layer.down.set_bias({}, data, type, hidden);
    default: throw std::invalid_argument("no such tensor");
  }
}
