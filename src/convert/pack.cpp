#include "convert/pack.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <vector>

#include "base/crc32c.h"
#include "formats/fingerprint.h"
#include "formats/safetensors_writer.h"
#include "platform/file.h"

namespace mlxf::convert {
namespace {

namespace fs = std::filesystem;
using platform::File;

constexpr int64_t kVersion = 1;
constexpr uint64_t kChunkBytes = uint64_t{8} << 20;
constexpr uint64_t kListBytesMax = uint64_t{64} << 20;
constexpr const char* kList = "packed.json";
constexpr const char* kSource = "packing.json";  // Of an unfinished folder: what it is made from.
constexpr const char* kSums = ".sums";

Status write_text(const fs::path& path, const std::string& text) {
  ASSIGN_OR_RETURN(platform::NewFile file,
                   platform::NewFile::create(path.string(), platform::Overwrite::kReplace));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return file.commit();
}

Result<Json> read_json(const fs::path& path) {
  ASSIGN_OR_RETURN(const std::string text, platform::read_whole_file(path.string(), kListBytesMax));
  auto json = parse_json(text);
  if (!json) return tl::unexpected<Error>(json.error().within(path.string()));
  return json;
}

Status io_error(const fs::path& path, const char* what, const std::error_code& code) {
  return fail(ErrorCode::kIo, path.string() + ": " + what + ": " + code.message());
}

// The folder that is being made.
class Workshop {
 public:
  static Result<Workshop> open(const std::string& out, const std::string& source) {
    if (fs::exists(fs::symlink_status(out)))
      return fail(ErrorCode::kInvalidArgument,
                  out + ": exists already and is not overwritten; choose another name");
    Workshop workshop(out);
    std::error_code code;
    fs::create_directories(workshop.folder_, code);
    if (code)
      return tl::unexpected<Error>(io_error(workshop.folder_, "cannot make the folder", code).error());
    const fs::path mark = workshop.folder_ / kSource;
    if (!fs::exists(mark)) {
      RETURN_IF_ERROR(write_text(mark, dump_json(Json{{"version", kVersion}, {"source", source}}) + "\n"));
    } else {
      const auto left = read_json(mark);
      if (!left || find_int(*left, "version").value_or(0) != kVersion ||
          find_string(*left, "source").value_or("") != source)
        return fail(ErrorCode::kInvalidArgument,
                    workshop.folder_.string() + ": holds the unfinished pack of another model; remove it");
    }
    return workshop;
  }
  [[nodiscard]] fs::path file(const std::string& name) const { return folder_ / name; }

  // The checksums of a file that was finished; nothing when it was not.
  [[nodiscard]] std::optional<Json> finished(const PackFile& file) const {
    std::error_code code;
    const auto sums = read_json(this->file(file.name + kSums));
    const uint64_t bytes = fs::file_size(this->file(file.name), code);
    if (!sums || code || bytes != static_cast<uint64_t>(find_int(*sums, "bytes").value_or(-1)))
      return std::nullopt;
    return *sums;
  }

  Status commit() {
    std::error_code code;
    std::vector<fs::path> leftovers;
    for (const auto& entry : fs::directory_iterator(folder_, code))
      if (const std::string name = entry.path().filename().string();
          name.ends_with(kSums) || name == kSource || name.find(".part-") != std::string::npos)
        leftovers.push_back(entry.path());
    for (const fs::path& path : leftovers) fs::remove(path, code);
    fs::rename(folder_, out_, code);
    return code ? io_error(out_, "cannot give the folder its name", code) : Status();
  }

 private:
  explicit Workshop(const std::string& out) : out_(out), folder_(out + ".packing") {}
  fs::path out_, folder_;
};

class Packer {
 public:
  Packer(const formats::ModelManifest& manifest, const PackPlan& plan, const Workshop& workshop,
         const ProgressFn& progress)
      : manifest_(manifest), plan_(plan), workshop_(workshop), progress_(progress), buffer_(kChunkBytes) {}

  Status open_sources() {
    for (const std::string& path : manifest_.files) {
      ASSIGN_OR_RETURN(File file, File::open(path));
      files_.push_back(std::move(file));
    }
    return {};
  }

  // Its checksums.
  Result<Json> write(const PackFile& file) {
    std::vector<formats::TensorSpec> specs;
    for (const PackPiece& piece : file.pieces) specs.push_back(piece.spec);
    const fs::path path = workshop_.file(file.name);
    const bool quantised = find_member(manifest_.config, "quantization") != nullptr;
    ASSIGN_OR_RETURN(auto writer, formats::SafetensorsWriter::create(
                                      path.string(), specs, {{"format", quantised ? "mlx" : "pt"}},
                                      formats::Overwrite::kReplace, kPackAlignment));
    Json extents = Json::array();
    size_t extent = 0;
    uint64_t at = 0;
    uint32_t sum = 0;
    for (const PackPiece& piece : file.pieces) {
      RETURN_IF_ERROR(copy(piece, writer, sum));
      at += piece.bytes;
      if (extent == file.extents.size() || at != file.extents[extent].offset + file.extents[extent].bytes)
        continue;
      const PackExtent& e = file.extents[extent++];
      extents.push_back({{"name", e.name}, {"offset", e.offset}, {"bytes", e.bytes}, {"crc32c", sum}});
      sum = 0;
      // Padding follows an extent and belongs to none.
    }
    RETURN_IF_ERROR(writer.finish());
    std::error_code code;
    const uint64_t bytes = fs::file_size(path, code);
    for (Json& e : extents) e["offset"] = bytes - file.bytes + e["offset"].get<uint64_t>();
    const Json sums = {{"name", file.name}, {"bytes", bytes}, {"extents", std::move(extents)}};
    RETURN_IF_ERROR(write_text(workshop_.file(file.name + kSums), dump_json(sums)));
    return sums;
  }

  void skip(const PackFile& file) { report(file.bytes); }

 private:
  Status copy(const PackPiece& piece, formats::SafetensorsWriter& writer, uint32_t& sum) {
    for (uint64_t done = 0; done < piece.bytes;) {
      const std::span<uint8_t> chunk(buffer_.data(), std::min(kChunkBytes, piece.bytes - done));
      if (piece.source == nullptr) {
        std::fill(chunk.begin(), chunk.end(), uint8_t{0});
      } else {
        const Status status =
            files_[piece.source->file].read_exact(piece.source->offset + piece.offset + done, chunk);
        if (!status)
          return tl::unexpected<Error>(status.error().within("while reading tensor " + piece.source->name));
        sum = crc32c(chunk, sum);
      }
      RETURN_IF_ERROR(writer.append(piece.spec.name, chunk));
      done += chunk.size();
      report(chunk.size());
    }
    return {};
  }

  void report(uint64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, plan_.bytes);
  }

  const formats::ModelManifest& manifest_;
  const PackPlan& plan_;
  const Workshop& workshop_;
  const ProgressFn& progress_;
  std::vector<uint8_t> buffer_;
  std::vector<File> files_;
  uint64_t done_ = 0;
};

// Tokenizer, generation settings, licence: everything of the folder but its weights and what is written anew.
Status copy_companions(const formats::ModelManifest& manifest, const Workshop& workshop) {
  const fs::path folder = fs::path(manifest.files[0]).parent_path();
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, code)) {
    const std::string name = entry.path().filename().string();
    const bool weights = entry.path().extension() == ".safetensors" || name.ends_with(".index.json");
    if (weights || name == "config.json" || !fs::is_regular_file(entry.path())) continue;
    fs::copy_file(entry.path(), workshop.file(name), fs::copy_options::overwrite_existing, code);
    if (code) return io_error(entry.path(), "cannot copy the file", code);
  }
  return code ? io_error(folder, "cannot list the folder", code) : Status();
}

Status write_lists(const PackPlan& plan, const std::string& source, Json files, const Workshop& workshop) {
  Json map = Json::object();
  for (const PackFile& file : plan.files)
    for (const PackPiece& piece : file.pieces) map[piece.spec.name] = file.name;
  const Json index = {{"metadata", {{"total_size", plan.bytes}}}, {"weight_map", std::move(map)}};
  RETURN_IF_ERROR(write_text(workshop.file("model.safetensors.index.json"), dump_json(index, 2)));
  RETURN_IF_ERROR(write_text(workshop.file("config.json"), dump_json(plan.config, 2)));
  const Json list = {
      {"version", kVersion}, {"source", source}, {"alignment", kPackAlignment}, {"files", std::move(files)}};
  return write_text(workshop.file(kList), dump_json(list, 1) + "\n");
}

}  // namespace

Result<PackReport> pack(const formats::ModelManifest& manifest, const std::string& out,
                        const ProgressFn& progress) {
  PackReport report;
  ASSIGN_OR_RETURN(report.plan, plan_pack(manifest));
  if (fs::exists(fs::path(manifest.files[0]).parent_path() / kList))
    return fail(ErrorCode::kInvalidArgument, manifest.path + ": is packed already");
  ASSIGN_OR_RETURN(const std::string source, formats::fingerprint(manifest));
  ASSIGN_OR_RETURN(Workshop workshop, Workshop::open(out, source));
  Packer packer(manifest, report.plan, workshop, progress);
  RETURN_IF_ERROR(packer.open_sources());
  Json files = Json::array();
  for (const PackFile& file : report.plan.files) {
    if (auto sums = workshop.finished(file)) {
      packer.skip(file);
      ++report.files_kept;
      files.push_back(*std::move(sums));
      continue;
    }
    ASSIGN_OR_RETURN(Json sums, packer.write(file));
    files.push_back(std::move(sums));
    report.written_bytes += file.bytes;
  }
  RETURN_IF_ERROR(copy_companions(manifest, workshop));
  RETURN_IF_ERROR(write_lists(report.plan, source, std::move(files), workshop));
  RETURN_IF_ERROR(workshop.commit());
  return report;
}

namespace {

struct ListedExtent {
  std::string file, name;
  uint64_t offset = 0, bytes = 0;
  uint32_t crc32c = 0;
};

Result<std::vector<ListedExtent>> read_list(const fs::path& path) {
  ASSIGN_OR_RETURN(const Json list, read_json(path));
  const auto damaged = [&] {
    return fail(ErrorCode::kCorrupt, path.string() + ": is not a list of packed extents of version 1");
  };
  const Json* files = find_member(list, "files");
  if (find_int(list, "version").value_or(0) != kVersion || files == nullptr || !files->is_array())
    return damaged();
  std::vector<ListedExtent> result;
  for (const Json& file : *files) {
    const auto name = find_string(file, "name");
    const Json* extents = find_member(file, "extents");
    if (!name || name->find('/') != std::string::npos || extents == nullptr || !extents->is_array())
      return damaged();
    for (const Json& extent : *extents) {
      const auto what = find_string(extent, "name");
      const auto offset = find_int(extent, "offset"), bytes = find_int(extent, "bytes"),
                 sum = find_int(extent, "crc32c");
      if (!what || !offset || !bytes || !sum || *offset < 0 || *bytes < 0) return damaged();
      result.push_back({*name, *what, static_cast<uint64_t>(*offset), static_cast<uint64_t>(*bytes),
                        static_cast<uint32_t>(*sum)});
    }
  }
  return result;
}

}  // namespace

Result<VerifyReport> verify_pack(const std::string& folder, const ProgressFn& progress) {
  ASSIGN_OR_RETURN(const std::vector<ListedExtent> extents, read_list(fs::path(folder) / kList));
  uint64_t total = 0;
  for (const ListedExtent& extent : extents) total += extent.bytes;
  VerifyReport report;
  std::vector<uint8_t> buffer(kChunkBytes);
  std::optional<File> file;
  std::string open_name;
  for (const ListedExtent& extent : extents) {
    if (!file || open_name != extent.file) {
      ASSIGN_OR_RETURN(file, File::open((fs::path(folder) / extent.file).string()));
      open_name = extent.file;
    }
    uint32_t sum = 0;
    for (uint64_t done = 0; done < extent.bytes;) {
      const std::span<uint8_t> chunk(buffer.data(), std::min(kChunkBytes, extent.bytes - done));
      RETURN_IF_ERROR(file->read_exact(extent.offset + done, chunk));
      sum = crc32c(chunk, sum);
      done += chunk.size();
      report.bytes += chunk.size();
      if (progress) progress(report.bytes, total);
    }
    if (sum != extent.crc32c)
      return fail(ErrorCode::kCorrupt, file->path() + ": " + extent.name + " at byte " +
                                           std::to_string(extent.offset) +
                                           " is damaged: its checksum is not the one in packed.json");
    ++report.extents;
  }
  return report;
}

}  // namespace mlxf::convert
