/* The C interface of the fused CPU execution: one call runs a whole step of a mixed batch, from token
 * ids to sampled tokens, log-probabilities and hidden states. No Python and no torch; `pagoda_runtime/native/library.py` is its other side.
 *
 * Not thread safe: one caller at a time per model. A function that fails returns null or nonzero and
 * leaves the reason, for its caller's thread, in pagoda_error(). */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Raised when a struct or function here changes. */
#define PAGODA_ABI 2

enum PagodaInstructionSet { PAGODA_NONE = 0, PAGODA_AVX2 = 1, PAGODA_AVX512 = 2 };

typedef struct {
  int32_t vocab_size, hidden_size, intermediate_size, num_layers;
  int32_t num_heads, num_kv_heads, head_dim; /* head_dim is even */
  int32_t qk_norm, qkv_bias, o_bias, mlp_bias, tie_embeddings;
  int32_t int8;                  /* weights of linear layers as int8, activations quantised per token */
  int32_t block_size, num_blocks; /* block_size is even */
  int32_t max_tokens;            /* of a step */
  int32_t logits_rows;           /* that are held at once; more rows than that take turns */
  int32_t threads;
  int32_t instruction_set; /* PagodaInstructionSet; PAGODA_NONE takes the best there is */
  float norm_eps;
} PagodaConfig;

enum PagodaTensor {
  PAGODA_EMBEDDING, /* [vocab, hidden] */
  PAGODA_LM_HEAD,   /* [vocab, hidden]; not with tie_embeddings */
  PAGODA_FINAL_NORM,
  /* of a layer */
  PAGODA_INPUT_NORM,
  PAGODA_POST_NORM,
  PAGODA_Q_NORM,
  PAGODA_K_NORM,
  PAGODA_Q_WEIGHT, /* [heads * head_dim, hidden]; weights of linear layers are [out, in] */
  PAGODA_K_WEIGHT,
  PAGODA_V_WEIGHT,
  PAGODA_O_WEIGHT,
  PAGODA_GATE_WEIGHT,
  PAGODA_UP_WEIGHT,
  PAGODA_DOWN_WEIGHT,
  PAGODA_Q_BIAS,
  PAGODA_K_BIAS,
  PAGODA_V_BIAS,
  PAGODA_O_BIAS,
  PAGODA_GATE_BIAS,
  PAGODA_UP_BIAS,
  PAGODA_DOWN_BIAS
};

enum PagodaType { PAGODA_BF16 = 0, PAGODA_FLOAT = 1 };

typedef struct PagodaModel PagodaModel;

/* What becomes of one row of logits: a token is chosen, with the meaning of
 * `pagoda_runtime/engine/sampler.py`, or a given one is scored. The rows of a step are its tokens. */
typedef struct {
  int32_t row;    /* of the step: whose logits these are */
  int32_t scored; /* -1: choose; else the token whose log-probability is wanted, and nothing chosen */
  int32_t top_k; /* 0: off */
  float temperature, top_p, min_p;
  float presence_penalty, frequency_penalty, repetition_penalty;
  int32_t top_logprobs; /* -1: no log-probabilities at all */
  /* Slices of PagodaStep.history and .bias_tokens: prompt and answer, for the penalties. */
  int32_t prompt_begin, answer_begin, answer_end;
  int32_t bias_begin, bias_end;
  uint64_t seed, position;
} PagodaRow;

/* Rows begin … end-1 of a step whose hidden states are added up, after the final norm. */
typedef struct {
  int32_t begin, end;
} PagodaPool;

typedef struct {
  int32_t num_chunks;
  const int32_t *starts, *lengths; /* [chunks] positions start … start+length-1 */
  const int32_t *tokens;           /* of all chunks, one after another */
  const int32_t *block_tables;     /* [chunks, table_width] */
  int32_t table_width;
  int32_t num_rows;
  const PagodaRow *rows;
  const int32_t *history;
  const int32_t *bias_tokens;
  const float *biases;
  int32_t num_pools;
  const PagodaPool *pools; /* in order of rows, none in two of them */
  /* Results. */
  int32_t *sampled;          /* [rows] the token chosen, or scored */
  float *logprobs;           /* [rows] */
  int32_t max_top_logprobs;  /* width of the next two */
  int32_t *top_tokens;       /* [rows, max_top_logprobs] */
  float *top_values;         /* likewise */
  float *logits;             /* [rows, vocab], or null; before any sampling parameter */
  double *pooled;            /* [pools, hidden]; sums, to what is there, added in order of rows */
} PagodaStep;

int32_t pagoda_abi(void);
const char *pagoda_error(void);

/* The best set of this machine: a PagodaInstructionSet. */
int32_t pagoda_instruction_set(void);

/* inverse_frequencies [head_dim / 2]: radians per position of RoPE. windows [layers]: positions that
 * a token sees, its own included; 0 means all. */
PagodaModel *pagoda_create(const PagodaConfig *config, const float *inverse_frequencies,
                           const int32_t *windows);

/* Every tensor once, before the first step. A bfloat16 embedding is not copied: it must outlive the
 * model. Everything else may go when the call returns. layer is ignored for the first three. */
int32_t pagoda_load(PagodaModel *model, int32_t tensor, int32_t layer, const void *data,
                    int32_t type);

int32_t pagoda_step(PagodaModel *model, const PagodaStep *step);

void pagoda_destroy(PagodaModel *model);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
