"""CUDA source, second half: `textures` and `shading` for one ray, and the kernel over pixels."""

SOURCE = r"""
__device__ inline float mix(float a, float b, float m) { return a + (b - a) * m; }
__device__ inline float smooth(float edge0, float edge1, float x) {
  float f = clamp01((x - edge0) / (edge1 - edge0));
  return f * f * (3.0f - 2.0f * f);
}

__device__ __noinline__ float fbm(float s, float t, int seed, float spread) {
  float octave2 = 0.5f * (1.0f - smooth(0.4f, 1.0f, spread * 2.1f));
  float octave3 = 0.3f * (1.0f - smooth(0.4f, 1.0f, spread * 4.3f));
  return value_noise(s, t, seed) +
         octave2 * (value_noise(2.1f * s + 7.3f, 2.1f * t, seed + 1) - 0.5f) +
         octave3 * (value_noise(4.3f * s, 4.3f * t + 3.1f, seed + 2) - 0.5f);
}

struct Pattern { float m, k; unsigned cell; };

__device__ Pattern pattern(int kind, float s, float t, int seed, float spread) {
  float row = floorf(t);
  float offset = kind == KIND_BRICKS ? 0.5f * (row - 2.0f * floorf(row * 0.5f)) : 0.0f;
  float column = floorf(s + offset);
  float fs = s + offset - column, ft = t - row;
  int i = (int)column, j = (int)row;
  unsigned h = hash_cells(i, j, seed + 5);
  float shade = unit_from_hash(h), other = unit_from_hash(remix(h, 7));
  bool is_rare = (remix(h, 3) & 7u) == 0u;
  Pattern r;
  r.m = 0.0f; r.k = 0.0f; r.cell = h;
  switch (kind) {
    case KIND_CHECKER: r.m = (float)((i + j) & 1); break;
    case KIND_STRIPES: r.m = fs < 0.5f ? 1.0f : 0.0f; break;
    case KIND_BRICKS:
      r.m = 0.7f * shade;
      r.k = (fs < 0.07f || ft < 0.12f) ? 1.0f : 0.0f;
      break;
    case KIND_GLYPHS: {
      int x = (int)floorf(fs * 4.0f), y = (int)floorf(ft * 7.0f);
      bool bit = (h >> ((y * 3 + x) & 15)) & 1u;
      unsigned word = hash_cells(i >> 2, j, seed + 13);
      bool is_gap = ((word >> (i & 3)) & 3u) == 0u;
      r.m = (bit && x < 3 && y < 5 && !is_gap) ? 1.0f : 0.0f;
      break;
    }
    case KIND_NOISE: r.m = smooth(0.25f, 0.75f, fbm(s, t, seed, spread)); break;
    case KIND_WOOD: {
      float plank = floorf(s * 0.16f);
      float plank_shade = unit_from_hash(hash_cells((int)plank, 0, seed + 9));
      float rings = 6.0f * fbm(s, t, seed, spread) + 1.5f * s;
      rings = rings - floorf(rings);
      r.m = 0.55f * (2.0f * fabsf(rings - 0.5f)) + 0.45f * plank_shade;
      r.k = (s * 0.16f - plank) < 0.035f ? 0.8f : 0.0f;
      break;
    }
    case KIND_MARBLE: {
      float veins = 1.0f - fabsf(sinf(6.2831853f * (0.5f * s + 2.5f * fbm(s, t, seed, spread))));
      r.m = veins * veins;
      break;
    }
    case KIND_GRADIENT: r.m = 0.5f + 0.5f * sinf(0.7f * t + 0.4f * s); break;
    case KIND_DOTS:
    case KIND_FLOWERS: {
      float du = fs - 0.3f - 0.4f * shade, dv = ft - 0.3f - 0.4f * other;
      float radius = sqrtf(du * du + dv * dv);
      if (kind == KIND_DOTS) {
        r.m = radius < 0.1f + 0.2f * other ? 1.0f : 0.0f;
      } else {
        float turns = floorf(3.0f + 3.0f * shade) * atan2f(dv, du) + 6.0f * other;
        float petals = 0.22f + 0.10f * cosf(turns);
        r.m = smooth(0.0f, 0.06f, petals - radius) * (0.55f + 0.45f * smooth(0.0f, 0.25f, radius));
        r.k = radius < 0.09f ? 1.0f : 0.0f;
      }
      break;
    }
    case KIND_FOLIAGE: {
      float leaf = fbm(s, t, seed, spread) * 5.0f;
      r.m = clamp01(floorf(leaf) * 0.2f + 0.25f * (leaf - floorf(leaf)));
      break;
    }
    case KIND_COLLAGE: {
      unsigned level = remix(h, 11) & 3u;
      if (level == 0u) r.cell = hash_cells((int)floorf(s * 3.0f), (int)floorf(t * 3.0f), seed + 17);
      else if (level == 1u) r.cell = hash_cells(i >> 1, j >> 1, seed + 19);
      r.m = unit_from_hash(remix(r.cell, 5));
      break;
    }
    case KIND_GRID: r.m = (fs < 0.09f || ft < 0.09f) ? 1.0f : 0.0f; break;
    default: break;
  }
  bool is_celled = kind == KIND_CHECKER || kind == KIND_STRIPES || kind == KIND_DOTS;
  if (is_celled && is_rare && r.m > 0.5f) r.k = 1.0f;
  return r;
}

#define MATERIAL(name) material[(size_t)row * MATERIAL_COLUMNS + COLUMN_##name]

__device__ V surface_colour(
    const float* material, int row, float u, float v, int face, float footprint) {
  int kind = (int)MATERIAL(KIND);
  int seed = (int)MATERIAL(SEED) + face * 7919;
  float fu = MATERIAL(FREQUENCY_U), fv = MATERIAL(FREQUENCY_V);
  float c = MATERIAL(COS), sn = MATERIAL(SIN);
  float s = (c * u + sn * v) * fu, t = (c * v - sn * u) * fv;
  float spread = footprint * fmaxf(fu, fv);
  Pattern p = pattern(kind, s, t, seed, spread);
  const float fineness[] = FINENESS;
  const float mean[] = MEAN;
  float fade = smooth(0.35f, 0.95f, spread * fineness[kind]);
  float m = mix(p.m, mean[kind], fade), k = p.k * (1.0f - fade);
  float gf = MATERIAL(GRAIN_FREQUENCY);
  float grain = 0.0f, amount = MATERIAL(GRAIN);
  if (amount > 0.0f) {
    grain = value_noise(u * gf, v * gf, seed + 31) - 0.5f;
    grain = grain * amount * (1.0f - smooth(0.4f, 1.0f, footprint * gf));
  }
  float out[3];
  for (int ch = 0; ch < 3; ++ch) {
    const float* base = material + (size_t)row * MATERIAL_COLUMNS + COLUMN_R0 + ch;
    float value = mix(mix(base[0], base[3], m), base[6], k);
    if (kind == KIND_COLLAGE) {
      float random = unit_from_hash(remix(p.cell, ch + 1));
      value = mix(random * random, value, 0.25f + 0.75f * fade);
    }
    out[ch] = clamp01(value * (1.0f + 2.0f * grain));
  }
  return make_v(out[0], out[1], out[2]);
}

struct Face { float gap; V normal; int axis; bool is_round; };

__device__ Face active_constraint(V p, V q, float a, float b) {
  float ax = fabsf(p.x), ay = fabsf(p.y), az = fabsf(p.z);
  Face f;
  f.axis = (ax >= ay && ax >= az) ? 0 : (ay >= az ? 1 : 2);
  float slab = fmaxf(fmaxf(ax, ay), az) - 1.0f;
  float width = a + b * p.z;
  float value = q.x * p.x * p.x + q.y * p.y * p.y + q.z * p.z * p.z - width * width;
  V slope = make_v(q.x * p.x, q.y * p.y, q.z * p.z - b * width);
  float length = sqrtf(dot(slope, slope));
  float quadric = value / fmaxf(2.0f * length, 1e-6f);
  f.is_round = quadric > slab && length > 1e-6f;
  f.gap = f.is_round ? quadric : slab;
  if (f.is_round) f.normal = slope;
  else
    f.normal = make_v(f.axis == 0 ? (p.x < 0.0f ? -1.0f : 1.0f) : 0.0f,
                      f.axis == 1 ? (p.y < 0.0f ? -1.0f : 1.0f) : 0.0f,
                      f.axis == 2 ? (p.z < 0.0f ? -1.0f : 1.0f) : 0.0f);
  return f;
}

__device__ float visibility(const float* bodies, const float* view, V at, float extent) {
  V light = load_v(view + LIGHT_AT);
  V gap = minus(light, at);
  float far2 = dot(gap, gap), bias = SHADOW_BIAS * extent / sqrtf(far2);
  for (int n = 0; n < BODIES; ++n) {
    const float* body = bodies + n * BODY_COLUMNS;
    V away = minus(load_v(body + BALL), at);
    float share = clamp01(dot(away, gap) / far2);
    V off = along(away, -share, gap);
    if (dot(off, off) > body[BALL + 3] * body[BALL + 3]) continue;
    V d = matvec(body + DIRECTION, at.x / at.z, at.y / at.z);
    V p = along(load_v(body + ORIGIN), at.z, d);
    if (entry(p, minus(load_v(body + LIGHT), p), body, bias) < 1.0f) return 0.0f;
  }
  return 1.0f;
}

// Linear colour of the ray (x, y, 1); its depth, HUGE at the sky
__device__ V trace(const float* bodies, const float* view, const float* material,
                   long long base, float x, float y, float* depth) {
  int pose = SHELL_POSE, wall = 0;
  float t = HUGE, squared = x * x + y * y + 1.0f, length = sqrtf(squared);
  for (int n = 0; n < BODIES; ++n) {
    const float* body = bodies + n * BODY_COLUMNS;
    V ball = load_v(body + BALL);
    float r = body[BALL + 3], b = ball.x * x + ball.y * y + ball.z, share = b / squared;
    V off = make_v(ball.x - share * x, ball.y - share * y, ball.z - share);
    if (dot(off, off) > r * r) continue;
    if ((b / length + r) < 0.0f || (b / length - r) > t * length) continue;
    float met = entry(load_v(body + ORIGIN), matvec(body + DIRECTION, x, y), body, 1e-4f);
    if (met < t) { t = met; pose = n; }
  }
  Shape shape;
  shape.power = view[RELIEF]; shape.amplitude = view[RELIEF + 1];
  shape.frequency = view[RELIEF + 2]; shape.seed = (int)view[RELIEF + 3];
  if (view[SCALARS + 3] > 0.0f) {
    const float* body = bodies + RELIEF_POSE * BODY_COLUMNS;
    float met = march(load_v(body + ORIGIN), matvec(body + DIRECTION, x, y), shape);
    if (met < t) { t = met; pose = RELIEF_POSE; }
  }
  const float* shell = bodies + SHELL_POSE * BODY_COLUMNS;
  float out = box_exit(load_v(shell + ORIGIN), matvec(shell + DIRECTION, x, y), &wall);
  if (view[WALLS + wall] > 0.0f && out <= t) { t = out; pose = SHELL_POSE; }
  *depth = t;

  float focal = view[FOCAL];
  if (t == HUGE) {
    V ray = matvec(view + TURN, x, y);
    float u = 10.0f * atan2f(ray.y, ray.x);
    float v = 10.0f * atan2f(ray.z, sqrtf(ray.x * ray.x + ray.y * ray.y));
    float footprint = 0.5f * 10.0f * length / focal;
    return surface_colour(material, (int)base + SKY_ROW, u, v, 0, footprint);
  }

  const float* body = bodies + pose * BODY_COLUMNS;
  const float* m = body + DIRECTION;
  V p = along(load_v(body + ORIGIN), t, matvec(m, x, y));
  bool is_shell = pose == SHELL_POSE, is_bump = pose == RELIEF_POSE, is_cut = false;
  V q = is_shell ? make_v(0.0f, 0.0f, 0.0f) : load_v(body + QUADRIC);
  float wide = is_shell ? 1.0f : body[TAPER], slope = is_shell ? 0.0f : body[TAPER + 1];
  Face f = active_constraint(p, q, wide, slope);
  if (is_shell) f.normal = make_v(-f.normal.x, -f.normal.y, -f.normal.z);
  else if (is_bump) {
    f.normal = gradient(p, shape);
    f.is_round = false;
  } else {
    V inverse = load_v(body + CUT_INVERSE);
    V pc = times(minus(p, load_v(body + CUT_CENTRE)), inverse);
    Face cut = active_constraint(pc, load_v(body + CUT_QUADRIC), 1.0f, 0.0f);
    if (fabsf(cut.gap) < fabsf(f.gap)) {
      is_cut = true;
      V flipped = times(cut.normal, inverse);
      f = cut;
      f.normal = make_v(-flipped.x, -flipped.y, -flipped.z);
    }
  }
  V half = load_v(body + HALF), metric = times(p, half);
  float u = f.axis == 0 ? metric.y : metric.x;
  if (f.is_round) u = atan2f(p.y, p.x) * 0.5f * (half.x + half.y);
  float v = (f.is_round || f.axis != 2) ? metric.z : metric.y;
  int side = f.normal.x + f.normal.y + f.normal.z > 0.0f ? 1 : 0;
  int face = f.is_round ? 6 : 2 * f.axis + side;
  int second = ((f.axis == 2 && !f.is_round) || is_cut) ? 1 : 0;
  int row = (int)base + (is_bump ? RELIEF_ROW : is_shell ? SHELL_ROW + wall : 2 * pose + second);
  V nl = f.normal;
  V normal = unit(make_v(m[0] * nl.x + m[3] * nl.y + m[6] * nl.z,
                         m[1] * nl.x + m[4] * nl.y + m[7] * nl.z,
                         m[2] * nl.x + m[5] * nl.y + m[8] * nl.z));

  V eye = unit(make_v(-x, -y, -1.0f));
  float slant = fmaxf(fabsf(dot(normal, eye)), 0.12f);
  float footprint = 0.5f * t * length / (focal * slant);
  V albedo = surface_colour(material, row, u, v, face, footprint);

  V at = make_v(t * x, t * y, t), gap = minus(load_v(view + LIGHT_AT), at);
  V towards = unit(gap);
  float lambert = fmaxf(dot(normal, towards), 0.0f), lit = 1.0f;
  bool casts = view[SCALARS + 1] > 0.0f;
  if (casts && lambert > 0.0f) lit = visibility(bodies, view, at, view[SCALARS + 2]);
  lambert = lambert * lit / (1.0f + view[SCALARS] * dot(gap, gap));
  float shine = 0.0f, specular = MATERIAL(SPECULAR);
  if (specular > 0.0f && lambert > 0.0f) {
    V middle = unit(make_v(towards.x + eye.x, towards.y + eye.y, towards.z + eye.z));
    shine = powf(fmaxf(dot(normal, middle), 1e-4f), MATERIAL(SHININESS)) * specular;
  }
  float up = 0.5f + 0.5f * dot(normal, load_v(view + UP));
  float fill = fmaxf(dot(normal, load_v(view + FILL_FROM)), 0.0f);
  float a[3] = {albedo.x, albedo.y, albedo.z}, c[3];
  for (int k = 0; k < 3; ++k) {
    float ground = view[GROUND + k];
    float ambient = ground + (view[SKY + k] - ground) * up + view[FILL + k] * fill;
    c[k] = a[k] * (ambient + view[KEY + k] * lambert) + view[KEY + k] * shine;
  }
  return make_v(c[0], c[1], c[2]);
}

// one thread a pixel; grid: pixels of a view along x, views along y
extern "C" __global__ void render_pixels(
    const float* body, const float* view, const long long* material_base, const float* material,
    unsigned char* image, float* depth, int width, int height, int side) {
  int tiles = (width + 15) / 16;
  int column = (blockIdx.x % tiles) * 16 + threadIdx.x % 16;
  int line = (blockIdx.x / tiles) * 16 + threadIdx.x / 16;
  if (column >= width || line >= height) return;
  int m = blockIdx.y;
  body += (size_t)m * POSES * BODY_COLUMNS;
  view += (size_t)m * VIEW_COLUMNS;
  long long base = material_base[m];
  float fx = view[FOCAL], fy = view[FOCAL + 1], cx = view[FOCAL + 2], cy = view[FOCAL + 3];

  float red = 0.0f, green = 0.0f, blue = 0.0f, z = HUGE;
  int grid = side * side, total = grid + (side % 2 == 0 ? 1 : 0);
  for (int k = 0; k < total; ++k) {
    bool is_centre = total == grid ? 2 * k + 1 == grid : k == grid;
    float u = is_centre ? 0.5f : ((float)(k % side) + 0.5f) / (float)side;
    float v = is_centre ? 0.5f : ((float)(k / side) + 0.5f) / (float)side;
    float t;
    V c = trace(body, view, material, base, ((float)column + u - cx) / fx,
                ((float)line + v - cy) / fy, &t);
    red += c.x; green += c.y; blue += c.z;
    if (is_centre) z = t;
  }
  float scale = 1.0f / (float)total, sums[3] = {red, green, blue};
  size_t pixel = ((size_t)m * height + line) * width + column;
  for (int k = 0; k < 3; ++k)
    image[3 * pixel + k] =
        (unsigned char)(powf(clamp01(sums[k] * scale), 1.0f / 2.2f) * 255.0f + 0.5f);
  depth[pixel] = z == HUGE ? 0.0f : z;
}
"""
